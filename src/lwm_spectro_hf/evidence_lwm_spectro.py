"""Combination of a model's predictions over several views of a recording, and the reading of its heads' labels."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import torch

# Weight of an uninformative view. It is not zero, so that evidence from such views only is their plain mean.
MIN_VIEW_WEIGHT = 1e-6
# Quantities that show only if each frame is one symbol: in frames that straddle two, all constellations look alike.
SYMBOL_QUANTITIES = frozenset({"modulation"})
# Quantities with a label for "no change", which is the easier to recognize the more time a view spans.
STILL_LABELS = {"mobility": "static"}


def view_weights(log_probs: torch.Tensor) -> torch.Tensor:
    """Weight of each view: one minus the normalized entropy of its prediction of a quantity.

    A view of pure noise has a flat prediction and almost no weight; a view with a certain prediction has weight 1.

    Args:
        log_probs (`torch.Tensor` of shape `(num_views, num_labels)`): Log-probabilities.

    Returns:
        `torch.Tensor` of shape `(num_views,)`, from `MIN_VIEW_WEIGHT` to 1.
    """
    num_views, num_classes = log_probs.shape
    if num_classes == 1:
        return log_probs.new_ones(num_views)
    entropy = torch.special.entr(log_probs.exp()).sum(dim=-1)
    return (1 - entropy / math.log(num_classes)).clamp(min=MIN_VIEW_WEIGHT)


class Evidence:
    """Combines the predictions of a recording's views as they arrive, in constant memory.

    The log-probabilities of each quantity are averaged with the weights of [`view_weights`] and normalized again: a
    geometric mean of the views' probabilities. A view's weight is its certainty of the protocol, if that is predicted,
    times its certainty of the quantity itself; it is less if the expert that answered is not that of the protocol.
    Embeddings are weighted by the certainty of the protocol alone.

    Where there are views of symbols, only they count for `SYMBOL_QUANTITIES`. Views spread over more time than the
    others only decide whether anything changes: where there are any, the label in `STILL_LABELS` gets its probability
    from them, and the other labels share the rest in the proportions that the other views give them.

    Args:
        blind (`Iterable[str]`, *optional*): Quantities for which views of symbols do not count.
        still (`Mapping[str, int]`, *optional*): Quantities with a label for "no change", and the index of that label.
    """

    def __init__(self, blind: Iterable[str] = (), still: Mapping[str, int] | None = None):
        self._blind = frozenset(blind)
        self._still = dict(still or {})
        # By quantity and kind of view: "blind", "symbols" or "spread".
        self._totals: dict[tuple[str, str], torch.Tensor] = {}
        self._weights: dict[tuple[str, str], torch.Tensor] = {}
        self.heard: torch.Tensor | None = None
        self._num_searched = 0
        self._beside: Counter[tuple[str, str]] = Counter()

    def add(
        self,
        log_probs: dict[str, torch.Tensor],
        embedding: torch.Tensor | None = None,
        stands_for: float | torch.Tensor = 1.0,
        of_symbols: bool | torch.Tensor = False,
        trust: float | torch.Tensor = 1.0,
        heard: torch.Tensor | None = None,
        spread: bool | torch.Tensor = False,
        distinct: float | torch.Tensor = 1.0,
        sure: torch.Tensor | None = None,
        beside: Mapping[str, Iterable[str]] | None = None,
    ):
        """Adds views.

        Args:
            log_probs (`dict[str, torch.Tensor]`): For each quantity, log-probabilities `(num_views, num_labels)`.
            embedding (`torch.Tensor` of shape `(num_views, hidden_size)`, *optional*): The views' embeddings.
            stands_for (`float` or `torch.Tensor` of shape `(num_views,)`, *optional*, defaults to 1): How many views
                each of them counts for.
            of_symbols (`bool` or `torch.BoolTensor` of shape `(num_views,)`, *optional*, defaults to `False`): Whether
                each of their frames is one symbol.
            trust (`float` or `torch.Tensor` of shape `(num_views,)`, *optional*, defaults to 1): Factor on the weight
                of each view for all but the protocol; less than 1 where another expert should have answered.
            heard (`torch.Tensor` of shape `(num_protocols,)`, *optional*): Evidence of symbols of each protocol in the
                samples of these views, positive if there are any; 0 if they were not searched for. The attribute
                `heard` keeps the maximum for each protocol, with -inf for 0.
            spread (`bool` or `torch.BoolTensor` of shape `(num_views,)`, *optional*, defaults to `False`): Whether
                their frames are spread over more time than those of other views.
            distinct (`float` or `torch.Tensor` of shape `(num_views,)`, *optional*, defaults to 1): Share of the
                frames of each view that do not repeat others. Repeated frames look as if nothing had changed: the
                smaller the share, the flatter the view's probabilities of quantities in `still` are made.
            sure (`torch.Tensor` of shape `(num_views,)`, *optional*): Certainty of the protocol from each view alone,
                if its log-probabilities already include evidence that all views share; it reveals views of noise
                between packets.
            beside (`Mapping[str, Iterable[str]]`, *optional*): For each protocol, the others whose symbols were found
                in these samples in addition to its own; `None` if symbols were not searched for.
        """
        if beside is not None:
            self._num_searched += 1
            self._beside.update((name, other) for name, others in beside.items() for other in others)
        if heard is not None:
            heard = torch.where(heard == 0, -torch.inf, heard)
            self.heard = heard if self.heard is None else heard.maximum(self.heard)
        if "protocol" in log_probs:
            weights = view_weights(log_probs["protocol"])
        else:
            weights = torch.ones(len(next(iter(log_probs.values()))))
        sure = weights if sure is None else sure
        weights, sure = weights * stands_for, sure * stands_for
        of_symbols, spread = torch.as_tensor(of_symbols), torch.as_tensor(spread)
        kinds = {"blind": ~of_symbols & ~spread, "symbols": of_symbols & ~spread, "spread": spread}
        distinct = torch.as_tensor(distinct).expand(len(weights))[:, None]
        for name, values in {**log_probs, "embedding": embedding}.items():
            if values is not None:
                values = torch.log_softmax(distinct * values, dim=-1) if name in self._still else values
                counted = weights if name == "protocol" else sure * trust
                counted = counted if name in ("protocol", "embedding") else counted * view_weights(values)
                for kind, are in kinds.items():
                    self._totals[name, kind] = self._totals.get((name, kind), 0) + (counted * are) @ values
                    self._weights[name, kind] = self._weights.get((name, kind), 0) + (counted * are).sum()

    def _mean(self, name: str, *kinds: str) -> torch.Tensor | None:
        weight = sum(self._weights.get((name, kind), 0) for kind in kinds)
        return sum(self._totals[name, kind] for kind in kinds) / weight if weight > 0 else None

    def probabilities(self) -> dict[str, torch.Tensor]:
        """The combined probabilities `(num_labels,)` of each quantity; empty if no view had any power."""
        combined = {}
        for name in dict.fromkeys(name for name, _ in self._totals if name != "embedding"):
            kinds = ("blind",) if name in self._blind else ("blind", "symbols")
            if name in SYMBOL_QUANTITIES - self._blind and self._weights[name, "symbols"] > 0:
                kinds = ("symbols",)
            mean = self._mean(name, *kinds)
            combined[name] = torch.softmax(mean, dim=-1)
            spread = self._mean(name, "spread")
            if name in self._still and spread is not None:
                still = torch.softmax(spread, dim=-1)[self._still[name]]
                is_still = torch.arange(len(mean)) == self._still[name]
                others = torch.softmax(mean.masked_fill(is_still, -torch.inf), dim=-1)
                combined[name] = torch.where(is_still, still, (1 - still) * others)
        return combined

    def also_found(self, protocol: str | None) -> dict[str, float] | None:
        """The other protocols that were found beside this one, each with the share of the parts of the recording in
        which its symbols were found, the largest first; `None` if they were not searched for."""
        if protocol is None or not self._num_searched:
            return None
        found = {other: count for (name, other), count in self._beside.most_common() if name == protocol}
        return {other: count / self._num_searched for other, count in found.items()}

    def embedding(self) -> torch.Tensor | None:
        """The combined embedding `(hidden_size,)`; `None` if no view had any power."""
        return self._mean("embedding", "blind", "symbols")


def quantities(name: str, labels: list[str]) -> dict[str, dict[str | float, list[int]]]:
    """Split a head "a+b" into a and b: for each, its labels, as numbers if all are, and the outputs of each label."""
    names = name.split("+")
    told: dict[str, dict[str | float, list[int]]] = {quantity: {} for quantity in names}
    for index, label in enumerate(labels):
        parts = str(label).split("+") if len(names) > 1 else [str(label)]
        if len(parts) != len(names):
            raise ValueError(
                f"The label {label!r} of the head {name!r} has {len(parts)} part(s). Expected {len(names)}, "
                "joined by '+' like the head's name: correct the labels in the checkpoint's config.json."
            )
        for quantity, part in zip(names, parts, strict=True):
            told[quantity].setdefault(part, []).append(index)
    return {quantity: _with_numbers(places) for quantity, places in told.items()}


def marginal(log_probs: torch.Tensor, places: dict[str | float, list[int]]) -> torch.Tensor:
    """Sum a head's probabilities `(num_views, num_outputs)` for each label of [`quantities`], all as logarithms."""
    return torch.stack([log_probs[:, indices].logsumexp(dim=-1) for indices in places.values()], dim=-1)


def _with_numbers(places: dict[str, list[int]]) -> dict[str | float, list[int]]:
    try:
        numbers = {label: float(label) for label in places}
    except ValueError:
        return places
    # "001" and "1e5" stay names.
    if any(label not in (f"{number:g}", str(number)) for label, number in numbers.items()):
        return places
    return {numbers[label]: indices for label, indices in places.items()}
