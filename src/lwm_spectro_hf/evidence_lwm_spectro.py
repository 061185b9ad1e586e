"""What several views of a recording say together: how the answers of a model's heads are read, and combined."""

import math
from collections.abc import Iterable, Mapping

import torch

# A view that says nothing still counts this much, so that evidence made of such views only is their plain mean.
MIN_VIEW_WEIGHT = 1e-6
# Quantities that only whole symbols show: in frames that straddle them the levels of all constellations look alike.
SYMBOL_QUANTITIES = frozenset({"modulation"})
# Quantities of which one label says that nothing changes, which shows the better the more time is seen.
STILL_LABELS = {"mobility": "static"}


def view_weights(log_probs: torch.Tensor) -> torch.Tensor:
    """How much each view is believed: one minus the normalized entropy of what it says about a quantity.

    A view of pure noise says nothing, and gets next to no weight; a view that is sure gets 1.

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
    """What the views of a recording say together, combined as they come in constant memory.

    The log-probabilities of each quantity are averaged with the weights of [`view_weights`] and normalized again: a
    geometric mean of opinions. A view counts by how sure it is of its protocol, if there is one, times how sure it is
    of the quantity itself; less if another expert than that of its protocol has answered. Embeddings are averaged by
    the protocol alone.

    Where there are views of symbols, they alone count for `SYMBOL_QUANTITIES`. Views that are spread over more time
    than the others tell whether anything changes, and nothing else: where there are any, the one of `STILL_LABELS` has
    its probability from them, and the other labels share what is left as the other views say.

    Args:
        blind (`Iterable[str]`, *optional*): Quantities for which views of symbols do not count.
        still (`Mapping[str, int]`, *optional*): Quantities of which a label says that nothing changes, and its place.
    """

    def __init__(self, blind: Iterable[str] = (), still: Mapping[str, int] | None = None):
        self._blind = frozenset(blind)
        self._still = dict(still or {})
        # Of each quantity and kind of view: "blind", "symbols" or "spread".
        self._totals: dict[tuple[str, str], torch.Tensor] = {}
        self._weights: dict[tuple[str, str], torch.Tensor] = {}
        self.heard: torch.Tensor | None = None

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
    ):
        """Adds views.

        Args:
            log_probs (`dict[str, torch.Tensor]`): For each quantity, log-probabilities `(num_views, num_labels)`.
            embedding (`torch.Tensor` of shape `(num_views, hidden_size)`, *optional*): The views' embeddings.
            stands_for (`float` or `torch.Tensor` of shape `(num_views,)`, *optional*, defaults to 1): How many views
                each of them counts for.
            of_symbols (`bool` or `torch.BoolTensor` of shape `(num_views,)`, *optional*, defaults to `False`): Whether
                their frames are symbols.
            trust (`float` or `torch.Tensor` of shape `(num_views,)`, *optional*, defaults to 1): How much what each
                says of anything but the protocol counts; less than 1 where another expert should have answered.
            heard (`torch.Tensor` of shape `(num_protocols,)`, *optional*): How surely symbols of each protocol are
                where these views come from, positive if they are; 0 if they were not looked for. The attribute `heard`
                keeps the most of each, -inf for 0.
            spread (`bool` or `torch.BoolTensor` of shape `(num_views,)`, *optional*, defaults to `False`): Whether
                their frames are from all over more time than other views have.
            distinct (`float` or `torch.Tensor` of shape `(num_views,)`, *optional*, defaults to 1): Share of the
                frames of each that do not repeat others. What comes again has not changed: the fewer are new, the less
                is believed of what they say of that.
            sure (`torch.Tensor` of shape `(num_views,)`, *optional*): How sure each is of its protocol by itself, if
                its log-probabilities have been told something of all of them. By that a view of noise between packets
                is known.
        """
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
        """The combined probabilities `(num_labels,)` of each quantity; none if no view had any power."""
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

    def embedding(self) -> torch.Tensor | None:
        """The combined embedding `(hidden_size,)`; `None` if no view had any power."""
        return self._mean("embedding", "blind", "symbols")


def quantities(name: str, labels: list[str]) -> dict[str, dict[str | float, list[int]]]:
    """What a head "a+b" tells: of a and of b the labels, as numbers where they are, and which outputs are of each."""
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
    """Of a head's log-probabilities `(num_views, num_outputs)` those of the labels that [`quantities`] found."""
    return torch.stack([log_probs[:, indices].logsumexp(dim=-1) for indices in places.values()], dim=-1)


def _with_numbers(places: dict[str, list[int]]) -> dict[str | float, list[int]]:
    try:
        numbers = {label: float(label) for label in places}
    except ValueError:
        return places
    # "001" and "1e5" are names.
    if any(label not in (f"{number:g}", str(number)) for label, number in numbers.items()):
        return places
    return {numbers[label]: indices for label, indices in places.items()}
