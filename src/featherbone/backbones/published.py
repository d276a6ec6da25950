"""What the papers state of their models, for the tables that set it beside what we measure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row of a paper's ImageNet-1K table; None where the paper says nothing."""

    params: float | None
    """Millions."""
    gmacs: float | None
    """Billions of multiply-adds at `image_size`."""
    top1: float | None
    """Per cent."""
    image_size: int = 224
    note: str = ""
