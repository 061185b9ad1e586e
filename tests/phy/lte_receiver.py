"""A plain LTE receiver in NumPy, written from the receive side of TS 36.211, 36.212 and 36.213, step by step.

It shares no code with the generator but the table of transport block sizes. Normal cyclic prefix, FDD, noise-free.
"""

import math

import numpy as np

CONVOLUTIONAL_COLUMNS = [1, 17, 9, 25, 5, 21, 13, 29, 3, 19, 11, 27, 7, 23, 15, 31]
CONVOLUTIONAL_COLUMNS += [0, 16, 8, 24, 4, 20, 12, 28, 2, 18, 10, 26, 6, 22, 14, 30]
TURBO_COLUMNS = [0, 16, 8, 24, 4, 20, 12, 28, 2, 18, 10, 26, 6, 22, 14, 30]
TURBO_COLUMNS += [1, 17, 9, 25, 5, 21, 13, 29, 3, 19, 11, 27, 7, 23, 15, 31]
CRC24A, CRC24B, CRC16 = (24, 0x1864CFB), (24, 0x1800063), (16, 0x11021)


def gold(c_init, length):
    x1, x2 = [1] + [0] * 30, [(c_init >> i) & 1 for i in range(31)]
    for n in range(length + 1600 - 31):
        x1.append(x1[n + 3] ^ x1[n])
        x2.append(x2[n + 3] ^ x2[n + 2] ^ x2[n + 1] ^ x2[n])
    return np.array(x1[1600 : 1600 + length]) ^ np.array(x2[1600 : 1600 + length])


def crc_remainder(bits, code):
    """Remainder of information and parity together: zero where they agree."""
    order, polynomial = code
    register = 0
    for bit in bits:
        register = (register << 1) | int(bit)
        if register >> order:
            register ^= polynomial
    return register


# Cell search (36.211, clause 6.11)


def pss(sector):
    n = np.arange(63)
    return np.delete(np.exp(-1j * np.pi * [25, 29, 34][sector] * n * (n + 1) / 63), 31)


def sss(group, sector, subframe):
    def sequence(taps):
        x = [0, 0, 0, 0, 1]
        for i in range(26):
            x.append(sum(x[i + tap] for tap in taps) % 2)
        return 1 - 2 * np.array(x)

    s, c, z = sequence((2, 0)), sequence((3, 0)), sequence((4, 2, 1, 0))
    q = group // 30
    q = (group + q * (q + 1) // 2) // 30
    m = group + q * (q + 1) // 2
    m0, m1 = m % 31, (m % 31 + m // 31 + 1) % 31
    even, odd = (m0, m1) if subframe == 0 else (m1, m0)
    out = np.zeros(62)
    out[0::2] = np.roll(s, -even) * np.roll(c, -sector)
    out[1::2] = np.roll(s, -odd) * np.roll(c, -sector - 3) * np.roll(z, -(even % 8))
    return out


def spectrum(samples, start, num_rb):
    """Resource elements of the OFDM symbol whose useful part begins at `start`."""
    fft_size = {6: 128, 15: 256, 25: 512, 50: 1024, 75: 1536, 100: 2048}[num_rb]
    bins = np.fft.fft(samples[start : start + fft_size]) / math.sqrt(fft_size)
    return np.concatenate([bins[-6 * num_rb :], bins[1 : 6 * num_rb + 1]])


def find_cell(samples, num_rb):
    """Cell identity and the first sample of a subframe 0, from the first PSS of half a radio frame."""
    fft_size = {6: 128, 15: 256, 25: 512, 50: 1024, 75: 1536, 100: 2048}[num_rb]
    half_frame, scale = 75 * fft_size, fft_size / 2048
    best = (0, 0, 0)
    for sector in range(3):
        bins = np.zeros(fft_size, complex)
        bins[-31:], bins[1:32] = pss(sector)[:31], pss(sector)[31:]
        correlation = np.abs(np.correlate(samples[: half_frame + fft_size], np.fft.ifft(bins), "valid"))
        best = max(best, (correlation.max(), sector, int(correlation.argmax())))
    _, sector, start = best
    middle = slice(6 * num_rb - 31, 6 * num_rb + 31)
    # The SSS is one symbol earlier; the PSS gives the channel.
    found = spectrum(samples, start - fft_size - round(144 * scale), num_rb)[middle]
    found = found * np.conj(spectrum(samples, start, num_rb)[middle] / pss(sector))
    scores = [(np.real(found @ sss(g, sector, half)), g, half) for g in range(168) for half in (0, 5)]
    _, group, subframe = max(scores)
    to_subframe = start - 6 * (fft_size + round(144 * scale)) - round(160 * scale)
    return 3 * group + sector, to_subframe + (half_frame if subframe == 5 else 0)


def demodulate(samples, start, num_rb):
    """Resource grid of one subframe, (14, 12 * num_rb)."""
    fft_size = {6: 128, 15: 256, 25: 512, 50: 1024, 75: 1536, 100: 2048}[num_rb]
    rows = []
    for symbol in range(14):
        start += (160 if symbol % 7 == 0 else 144) * fft_size // 2048
        rows.append(spectrum(samples, start, num_rb))
        start += fft_size
    return np.array(rows)


def reference_signal(cell_id, num_rb, subframe, port):
    """{(symbol, subcarrier): value} of the cell-specific reference signal of one port (36.211, clause 6.10.1)."""
    out = {}
    for half in (0, 1):
        slot = 2 * subframe + half
        for symbol in (0, 4) if port < 2 else (1,):
            v = {(0, 0): 0, (0, 4): 3, (1, 0): 3, (1, 4): 0}.get((port, symbol), 3 * half + 3 * (port == 3))
            c = gold(2**10 * (7 * (slot + 1) + symbol + 1) * (2 * cell_id + 1) + 2 * cell_id + 1, 440)
            for m in range(2 * num_rb):
                k = m + 110 - num_rb
                value = ((1 - 2 * c[2 * k]) + 1j * (1 - 2 * c[2 * k + 1])) / math.sqrt(2)
                out[7 * half + symbol, 6 * m + (v + cell_id % 6) % 6] = value
    return out


def separate_ports(received, num_ports):
    """Undo transmit diversity, with the channels of all ports equal to one (36.211, clause 6.3.4.3)."""
    if num_ports == 1:
        return received
    out = np.empty_like(received)
    out[0::2] = (received[0::2] + received[1::2].conj()) / math.sqrt(2)
    out[1::2] = (received[1::2] - received[0::2].conj()) / math.sqrt(2)
    return out


def hard_bits(symbols, order):
    """Nearest constellation points to bits (36.211, clause 7.1)."""
    levels = {2: [1], 4: [1, 3], 6: [3, 1, 5, 7], 8: [5, 7, 3, 1, 11, 9, 13, 15]}[order]
    scale = {2: 2, 4: 10, 6: 42, 8: 170}[order]
    out = np.zeros((len(symbols), order), int)
    for axis, part in enumerate((symbols.real, symbols.imag)):
        part = part * math.sqrt(scale)
        out[:, axis] = part < 0
        nearest = np.abs(np.abs(part)[:, None] - np.array(levels)).argmin(1)
        for bit in range(order // 2 - 1):
            out[:, 2 * bit + 2 + axis] = nearest >> (order // 2 - 2 - bit) & 1
    return out.reshape(-1)


# Decoding (36.212)


def read_order(length, columns, turbo):
    """Where the coded bits stand in the circular buffer: (stream, position) or None for a dummy."""
    rows = math.ceil(length / 32)
    y = [None] * (32 * rows - length) + list(range(length))
    v = [y[32 * row + column] for column in columns for row in range(rows)]
    if not turbo:
        return [None if p is None else (stream, p) for stream in range(3) for p in v], 0
    size = 32 * rows
    v2 = [y[(columns[k // rows] + 32 * (k % rows) + 1) % size] for k in range(size)]
    pairs = [(stream, p) for one, two in zip(v, v2, strict=True) for stream, p in ((1, one), (2, two))]
    buffer = [(0, p) for p in v] + pairs
    return [None if p is None else (stream, p) for stream, p in buffer], 2 * rows


def undo_rate_matching(soft, length, turbo=False):
    """Soft bits of three streams, (3, length); repeated bits add up, bits not sent are zero."""
    buffer, at = read_order(length, TURBO_COLUMNS if turbo else CONVOLUTIONAL_COLUMNS, turbo)
    streams = np.zeros((3, length))
    for value in soft:
        while buffer[at % len(buffer)] is None:
            at += 1
        streams[buffer[at % len(buffer)]] += value
        at += 1
    return streams


def tail_biting_viterbi(soft):
    """Most likely bits of the K = 7 code 133, 171, 165 from soft bits (3, length), positive for zero."""
    length = soft.shape[1]
    state = np.arange(64)  # the last six bits, the latest on top
    previous = [(state << 1 & 63) | last for last in (0, 1)]
    window = [(state << 1) | last for last in (0, 1)]  # seven bits, the present on top
    signs = []
    for register in window:
        outputs = [
            sum(register >> k & generator >> k & 1 for k in range(7)) % 2 for generator in (0o133, 0o171, 0o165)
        ]
        signs.append(1 - 2 * np.array(outputs))
    metric, choices = np.zeros(64), []
    for step in range(3 * length):  # three turns: the start no longer matters in the middle one
        gain = soft[:, step % length]
        candidates = np.stack([metric[previous[b]] + gain @ signs[b] for b in (0, 1)])
        choices.append(candidates.argmax(0))
        metric = candidates.max(0)
    at, bits = int(metric.argmax()), []
    for choice in reversed(choices):
        bits.append(at >> 5)
        at = (at << 1 & 63) | int(choice[at])
    return np.array(bits[::-1])[length : 2 * length]


def soft(bits, scrambling):
    return 1.0 - 2.0 * (bits ^ scrambling)


# Broadcast channel (36.211, clause 6.6)


def broadcast_channel(grid, cell_id):
    """MIB from one subframe 0: (num_rb, N_g, frame number, ports), or None."""
    centre = grid.shape[1] // 2
    elements = [
        (symbol, k)
        for symbol in range(7, 11)
        for k in range(centre - 36, centre + 36)
        if symbol > 8 or (k - cell_id) % 3 != 0
    ]
    received = np.array([grid[e] for e in elements])
    scrambling = gold(cell_id, 1920)
    for assumed in (1, 2):
        bits = hard_bits(separate_ports(received, assumed), 2)
        for quarter in range(4):
            part = scrambling[480 * quarter : 480 * quarter + 480]
            decoded = tail_biting_viterbi(undo_rate_matching(soft(bits, part), 40))
            ports = {0: 1, 0xFFFF: 2, 0x5555: 4}.get(crc_remainder(decoded, CRC16))
            if ports and (ports > 1) == (assumed > 1):
                value = int("".join(map(str, decoded[:24])), 2)
                bandwidth = (6, 15, 25, 50, 75, 100)[value >> 21]
                assert value & 1023 == 0 and not value >> 20 & 1
                resource = (1 / 6, 1 / 2, 1, 2)[value >> 18 & 3]
                return bandwidth, resource, (value >> 10 & 255) * 4 + quarter, ports
    return None


# Control region (36.211, clauses 6.2.4 and 6.7 to 6.9; 36.213, clause 9.1.1)


def element_groups(num_rb, cell_id, num_symbols, num_ports):
    """{(first subcarrier, symbol): four elements} of the control region."""
    groups = {}
    for symbol in range(num_symbols):
        pilots = symbol == 0 or (symbol == 1 and num_ports == 4)
        step = 6 if pilots else 4
        for first in range(0, 12 * num_rb, step):
            inside = [k for k in range(first, first + step) if not pilots or k % 3 != cell_id % 3]
            groups[first, symbol] = [(symbol, k) for k in inside]
    return groups


def indicator_groups(num_rb, cell_id):
    first = 6 * (cell_id % (2 * num_rb))
    return [((first + i * num_rb // 2 * 6) % (12 * num_rb), 0) for i in range(4)]


def format_indicator(grid, cell_id, num_rb, num_ports, subframe):
    groups = element_groups(num_rb, cell_id, 1, num_ports)
    elements = [e for name in indicator_groups(num_rb, cell_id) for e in groups[name]]
    bits = hard_bits(separate_ports(np.array([grid[e] for e in elements]), num_ports), 2)
    bits ^= gold((subframe + 1) * (2 * cell_id + 1) * 2**9 + cell_id, 32)
    words = {1: (0, 1, 1), 2: (1, 0, 1), 3: (1, 1, 0)}
    distance = {cfi: int((bits != np.resize(word, 32)).sum()) for cfi, word in words.items()}
    cfi = min(distance, key=distance.get)
    return cfi, distance[cfi]


def control_channel(grid, cell_id, num_rb, num_ports, resource, cfi, subframe):
    """Soft bits of all control channel elements and the mask of those with power, (num_cce, 72), (num_cce,)."""
    groups = element_groups(num_rb, cell_id, cfi + (num_rb <= 10), num_ports)
    indicator = indicator_groups(num_rb, cell_id)
    free = [name for name in groups if name[1] == 0 and name not in indicator]
    hybrid = set()
    for unit in range(math.ceil(resource * num_rb / 8)):
        hybrid |= {free[(cell_id + unit + third * len(free) // 3) % len(free)] for third in range(3)}
    left = sorted(name for name in groups if name not in hybrid and name not in indicator)
    count = len(left)
    order = [entry[1] for entry in read_order(count, CONVOLUTIONAL_COLUMNS, False)[0] if entry and entry[0] == 0]
    quadruplets = [None] * count
    for place, name in enumerate(left):
        quadruplets[order[(place + cell_id) % count]] = [grid[e] for e in groups[name]]
    symbols = np.array(quadruplets).reshape(-1)
    power = np.abs(symbols[: count // 9 * 36].reshape(-1, 36)).mean(1)
    bits = hard_bits(separate_ports(symbols, num_ports), 2)
    values = soft(bits, gold(subframe * 2**9 + cell_id, 8 * count))
    return values[: count // 9 * 72].reshape(-1, 72), power > 0.1


def payload_sizes(num_rb):
    """Of format 1A and 1, from the published table of an FDD carrier."""
    return dict(
        zip((6, 15, 25, 50, 75, 100), ((21, 19), (22, 23), (25, 27), (27, 31), (27, 33), (28, 39)), strict=True)
    )[num_rb]


def find_assignment(elements, active, rnti, subframe, num_rb):
    """Blind search for one RNTI: (format, payload bits), or None."""
    y = rnti
    for _ in range(subframe + 1):
        y = 39827 * y % 65537
    common = rnti == 0xFFFF
    for level, candidates in ((4, 4), (8, 2)) if common else ((1, 6), (2, 6), (4, 2), (8, 2)):
        for m in range(candidates if len(elements) >= level else 0):
            first = level * (((0 if common else y) + m) % (len(elements) // level))
            if not active[first : first + level].all():
                continue
            for name, size in zip(("1A", "1"), payload_sizes(num_rb), strict=True):
                streams = undo_rate_matching(elements[first : first + level].reshape(-1), size + 16)
                bits = tail_biting_viterbi(streams)
                if crc_remainder(bits, CRC16) == rnti and not (name == "1A" and bits[0] == 0):
                    return name, bits[:size]
    return None


def parse_assignment(name, bits, num_rb):
    """Resource blocks and I_MCS of format 1 or 1A (36.212, clause 5.3.3.1; 36.213, clause 7.1.6)."""
    bits = list(map(int, bits))

    def take(width):
        value = int("".join(str(bits.pop(0)) for _ in range(width)), 2)
        return value

    if name == "1A":
        assert take(1) == 1 and take(1) == 0, "localized"
        riv = take(math.ceil(math.log2(num_rb * (num_rb + 1) / 2)))
        # The one pair that has this indication value.
        blocks = next(
            range(start, start + length)
            for length in range(1, num_rb + 1)
            for start in range(num_rb - length + 1)
            if riv
            == (
                num_rb * (length - 1) + start
                if length - 1 <= num_rb // 2
                else num_rb * (num_rb - length + 1) + num_rb - 1 - start
            )
        )
    else:
        group = 1 if num_rb <= 10 else 2 if num_rb <= 26 else 3 if num_rb <= 63 else 4
        assert num_rb <= 10 or take(1) == 0, "type 0"
        chosen = [g for g in range(math.ceil(num_rb / group)) if take(1)]
        blocks = [b for b in range(num_rb) if b // group in chosen]
    mcs = take(5)
    _, _, version, _ = take(3), take(1), take(2), take(2)
    assert version == 0 and not any(bits), "first transmission, then padding"
    return list(blocks), mcs


# Shared channel (36.211, clause 6.3; 36.212, clause 5.3.2; 36.213, clause 7.1.7)


def modulation_and_size(mcs, num_blocks, qam_256, system, sizes):
    if system:
        return 2, int(sizes[mcs][2])
    if qam_256:
        order = 2 if mcs < 5 else 4 if mcs < 11 else 6 if mcs < 20 else 8
        index = (
            0,
            2,
            4,
            6,
            8,
            10,
            11,
            12,
            13,
            14,
            15,
            16,
            17,
            18,
            19,
            20,
            21,
            22,
            23,
            24,
            25,
            27,
            28,
            29,
            30,
            31,
            32,
            33,
        )
        return order, int(sizes[index[mcs]][num_blocks - 1])
    order = 2 if mcs < 10 else 4 if mcs < 17 else 6
    return order, int(sizes[mcs - (mcs >= 10) - (mcs >= 17)][num_blocks - 1])


def shared_channel(grid, cell_id, num_rb, num_ports, cfi, subframe, blocks, order, size, rnti, gain=1.0):
    """Soft bits of each code block, ready for a turbo decoder: (num_blocks, 3, block + 4)."""
    pilots = set()
    for port in range(num_ports):
        pilots |= set(reference_signal(cell_id, num_rb, subframe, port))
    centre = 6 * num_rb
    elements = []
    for symbol in range(cfi + (num_rb <= 10), 14):
        around_centre = subframe in (0, 5) and symbol in (5, 6) or subframe == 0 and 7 <= symbol <= 10
        for k in range(12 * num_rb):
            if k // 12 not in blocks or (symbol, k) in pilots:
                continue
            if not (around_centre and centre - 36 <= k < centre + 36):
                elements.append((symbol, k))
    symbols = separate_ports(np.array([grid[e] for e in elements]) / gain, num_ports)
    bits = hard_bits(symbols, order)
    values = soft(bits, gold(rnti * 2**14 + subframe * 2**9 + cell_id, len(bits)))
    count = 1 if size + 24 <= 6144 else math.ceil((size + 24) / 6120)
    block = (size + 24 + 24 * count * (count > 1)) // count
    layers = 1 if num_ports == 1 else 2
    units = len(values) // (order * layers)
    out, at = [], 0
    for index in range(count):
        longer = index > count - units % count - 1
        length = order * layers * (units // count + longer)
        out.append(undo_rate_matching(values[at : at + length], block + 4, turbo=True))
        at += length
    assert at == len(values)
    return np.array(out)


def constituent_decoder(systematic, parity):
    """Max-log soft output of the eight-state code 1, (1 + D + D^3) / (1 + D^2 + D^3), terminated: (blocks, length)."""
    state = np.arange(8)
    w1, w2, w3 = state >> 2, state >> 1 & 1, state & 1
    entering = [u ^ w2 ^ w3 for u in (0, 1)]
    sent = [w0 ^ w1 ^ w3 for w0 in entering]
    after = [w0 << 2 | w1 << 1 | w2 for w0 in entering]
    blocks, length = systematic.shape
    gain = np.stack([(1 - 2 * u) * systematic[..., None] + parity[..., None] * (1 - 2 * sent[u]) for u in (0, 1)]) / 2
    before = [[(u, s) for u in (0, 1) for s in range(8) if after[u][s] == to] for to in range(8)]
    forward = np.full((length + 1, blocks, 8), -1e9)
    backward = np.full((length + 1, blocks, 8), -1e9)
    forward[0, :, 0] = backward[length, :, 0] = 0
    inputs, states = np.array(before).transpose(2, 1, 0)  # (2, 8) each
    into = gain[inputs, :, :, states]  # (2, 8, blocks, length)
    for k in range(length):
        steps = [forward[k][:, states[b]] + into[b, :, :, k].T for b in (0, 1)]
        forward[k + 1] = np.maximum(*steps)
    for k in range(length - 1, -1, -1):
        backward[k] = np.maximum(*(backward[k + 1][:, after[u]] + gain[u, :, k] for u in (0, 1)))
    total = [(forward[:-1] + gain[u].transpose(1, 0, 2) + backward[1:][:, :, after[u]]).max(-1).T for u in (0, 1)]
    return total[0] - total[1]


def turbo_decode(streams, interleaver, iterations=6):
    """Code blocks from soft bits (blocks, 3, length + 4), positive for zero (36.212, clause 5.1.3.2)."""
    length = streams.shape[2] - 4
    d0, d1, d2 = (streams[:, i] for i in range(3))
    first, second = interleaver
    i = np.arange(length)
    order = (first * i + second * i * i) % length

    def with_tail(body, *tail):
        return np.concatenate([body, np.stack(tail, 1)], 1)

    k = length
    parity = with_tail(d1[:, :k], d1[:, k], d0[:, k + 1], d2[:, k + 1])
    other_parity = with_tail(d2[:, :k], d1[:, k + 2], d0[:, k + 3], d2[:, k + 3])
    tail, other_tail = (d0[:, k], d2[:, k], d1[:, k + 1]), (d0[:, k + 2], d2[:, k + 2], d1[:, k + 3])
    known = d0[:, :k]
    extrinsic = np.zeros_like(known)
    for _ in range(iterations):
        given = known + extrinsic
        found = constituent_decoder(with_tail(given, *tail), parity)[:, :k] - given
        given = (known + 0.75 * found)[:, order]
        soft_output = constituent_decoder(with_tail(given, *other_tail), other_parity)[:, :k]
        extrinsic[:, order] = 0.75 * (soft_output - given)
    decided = np.empty_like(known)
    decided[:, order] = soft_output
    return (decided < 0).astype(int)


def transport_block(decoded):
    """Whether the parity of every code block and of the transport block holds."""
    if len(decoded) == 1:
        return crc_remainder(decoded[0], CRC24A) == 0
    good = all(crc_remainder(block, CRC24B) == 0 for block in decoded)
    return good and crc_remainder(np.concatenate([block[:-24] for block in decoded]), CRC24A) == 0
