"""What a task says of an image: frozen records, the same from the model, an exported file and the command line."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Classification:
    """The likeliest classes of one image, best first."""

    labels: tuple[int, ...]
    """Class indices."""
    names: tuple[str, ...]
    """Class names."""
    scores: tuple[float, ...]
    """Probabilities from 0 to 1; over all classes they sum to 1."""

    @property
    def label(self) -> int:
        """The best class."""
        return self.labels[0]

    @property
    def name(self) -> str:
        """The best class's name."""
        return self.names[0]

    @property
    def score(self) -> float:
        """The best class's probability."""
        return self.scores[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the command line prints them."""
        return {
            "task": "classification",
            "classes": [
                {"label": label, "name": name, "score": score}
                for label, name, score in zip(self.labels, self.names, self.scores, strict=True)
            ],
        }


Record = Classification  # a task's result; grows with the tasks
