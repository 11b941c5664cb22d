"""How LWay adapts an upscaler; it imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Manner:
    """How an upscaler is adapted. The defaults are the tool's; others are for ablations (docs/results/lway.md)."""

    iterations: int = field(default=40, metadata={"min": 0})
    """Iterations at most."""
    rate: float = field(default=5e-4, metadata={"min": 0})
    """Learning rate; LWay's authors' 2e-6 to 5e-5 are for networks of millions of parameters."""
    anchor: float = field(default=0.1, metadata={"min": 0})
    """Weight of the mean distance from what the upscaler made at first, beside the error of the photo made again."""
    flat: float = field(default=0.1, metadata={"min": 0, "max": 1})
    """Weight of the flattest places, where the most detailed have 1; with 1 there is no wavelet weighting."""
    trust: float | None = field(default=None, metadata={"min": 0, "max": 1})
    """Share of the estimated blur that is removed (default: 0.6 where it is enlarged twice, else 0.8)."""
    patience: int = field(default=2, metadata={"min": 1})
    """So many looks at the held-out patches in a row may bring little; then no more is to be had."""

    def share(self, scale: int) -> float:
        """The share of the blur that is removed by a tool that enlarges so many times.

        Chosen on the pairs of City100's Nikon, reduced by two and by four: with 0.8 and 1.0 one of eight was lowered
        (docs/results/lway.md).
        """
        return self.trust if self.trust is not None else 0.6 if scale == 2 else 0.8

    def changed(self) -> dict[str, float | None]:
        """What differs from the tool's, by name."""
        return {name: value for name, value in vars(self).items() if value != getattr(Manner, name)}

    def __str__(self) -> str:
        """What differs from the tool's, as ``anchor=0.0, flat=1.0``; nothing where nothing does."""
        return ", ".join(f"{name}={value}" for name, value in self.changed().items())
