"""MAC frames that WiFi packets carry: data and acknowledgment frames with their check sequence (802.11-2020, 9)."""

import torch

from .wifi_coding import bytes_to_bits, crc

_HEADER_BYTES, _QOS_BYTES, _FCS_BYTES = 24, 2, 4
ACK_BYTES = 14
MAX_PAYLOAD_BYTES = 2304  # of one MSDU (9.2.4.7.1)
_FCS_POLYNOMIAL = 0x04C11DB7
_NO_ACK = 0x20  # in QoS Control (9.2.4.5.4)
# Frame Control (9.2.4.1), protocol version 0: type and subtype, then flags of frames to and from an access point.
_DATA, _QOS_DATA, _ACK = 0x08, 0x88, 0xD4
_TO_DS, _FROM_DS = 1, 2


def overhead_bytes(qos: bool) -> int:
    """Bytes of a data frame besides its body: header, QoS Control if there is one, check sequence."""
    return _HEADER_BYTES + _QOS_BYTES * qos + _FCS_BYTES


def mpdu(frame: torch.Tensor, num_bytes: torch.Tensor | None = None) -> torch.Tensor:
    """Append the frame check sequence (9.2.4.8).

    Args:
        frame (`torch.Tensor` of shape `(batch, width)`, uint8): MAC header and frame body.
        num_bytes (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Length of each frame, by default `width`;
            the bytes after it must be zero.

    Returns:
        `torch.Tensor` of shape `(batch, width + 4)`, uint8.
    """
    length = None if num_bytes is None else 8 * num_bytes
    bits = crc(bytes_to_bits(frame), _FCS_POLYNOMIAL, 32, length).unflatten(-1, (_FCS_BYTES, 8))
    # The highest power is sent first, so it is the least significant bit of the first octet.
    fcs = (bits << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(-1, dtype=torch.uint8)
    if num_bytes is None:
        return torch.cat([frame, fcs], -1)
    places = num_bytes[:, None] + torch.arange(_FCS_BYTES, device=frame.device)
    return torch.nn.functional.pad(frame, (0, _FCS_BYTES)).scatter_(1, places, fcs)


def _octets(values: torch.Tensor, num_bytes: int) -> torch.Tensor:
    """Integers as little-endian octets, shape `(batch, num_bytes)`, uint8 (9.2.2)."""
    return ((values[:, None] >> (8 * torch.arange(num_bytes, device=values.device))) & 255).to(torch.uint8)


def data_frame(
    receiver: torch.Tensor,
    transmitter: torch.Tensor,
    sequence: torch.Tensor,
    duration_us: torch.Tensor,
    payload: torch.Tensor,
    qos: bool = False,
    num_bytes: torch.Tensor | None = None,
    upward: torch.Tensor | None = None,
) -> torch.Tensor:
    """Data frames between an access point, which is also their source or destination, and a station (9.3.2.1).

    Args:
        receiver (`torch.Tensor` of shape `(batch, 6)`, uint8): Address 1.
        transmitter (`torch.Tensor` of shape `(batch, 6)`, uint8): Address 2. Address 3 is the access point's.
        sequence (`torch.Tensor` of shape `(batch,)`, int64): Sequence number, modulo 4096.
        duration_us (`torch.Tensor` of shape `(batch,)`, int64): How long the medium stays reserved [µs].
        payload (`torch.Tensor` of shape `(batch, num_bytes)`, uint8): Frame body.
        qos (`bool`, *optional*, defaults to `False`): With a QoS Control field, as between 802.11n stations.
        num_bytes (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Length of each body, as in [`mpdu`].
        upward (`torch.Tensor` of shape `(batch,)`, bool, *optional*): Frames to the access point; by default none.

    Returns:
        `torch.Tensor` of shape `(batch, 28 + num_bytes)`, uint8, or two more with QoS; with FCS.
    """
    upward = receiver.new_zeros(len(receiver), dtype=torch.bool) if upward is None else upward
    flags = torch.where(upward, _TO_DS, _FROM_DS).to(torch.uint8)
    control = torch.stack([torch.full_like(flags, _QOS_DATA if qos else _DATA), flags], 1)
    quality = payload.new_zeros(len(payload), _QOS_BYTES if qos else 0)  # best effort
    # Group-addressed frames are not acknowledged (9.2.4.5.4).
    quality[:, :1] = torch.where(receiver[:, :1] & 1 == 1, _NO_ACK, 0)
    addresses = [receiver, transmitter, torch.where(upward[:, None], receiver, transmitter)]
    numbers = _octets(sequence % 4096 << 4, 2)
    header = torch.cat([control, _octets(duration_us, 2), *addresses, numbers, quality], -1)
    return mpdu(torch.cat([header, payload], -1), None if num_bytes is None else header.shape[1] + num_bytes)


def ack_frame(receiver: torch.Tensor) -> torch.Tensor:
    """Acknowledgment frames (9.3.1.4), with FCS. Nothing follows, so their duration is zero.

    Args:
        receiver (`torch.Tensor` of shape `(batch, 6)`, uint8): Transmitter of the frame that is acknowledged.

    Returns:
        `torch.Tensor` of shape `(batch, 14)`, uint8.
    """
    control = receiver.new_tensor((_ACK, 0, 0, 0)).expand(len(receiver), 4)
    return mpdu(torch.cat([control, receiver], -1))
