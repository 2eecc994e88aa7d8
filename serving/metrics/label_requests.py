"""Which answers ask for the true label: some of all, more of those that the members dispute.

Every image is drawn by itself, with a probability that is known and sealed into its prediction id (Poisson
sampling), so that labels of the drawn images, each weighed by 1 / probability, speak for all images.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

Reason = Literal["sampled", "disputed"]
REASONS: tuple[Reason, ...] = ("sampled", "disputed")


@dataclass(frozen=True, kw_only=True)
class LabelRequest:
    """The wish to know the true label of one image.

    Attributes:
        reason: `disputed` where the share of all images alone would not have drawn it.
        probability: That it would be drawn, above 0 to 1.
    """

    reason: Reason
    probability: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draws images.

    Attributes:
        share: The probability of an image whose members agree; 0 draws none.
        boost: The probability of an image is `share` times 1 + boost x dispute, at most 1.
    """

    share: float = 0.0
    boost: float = 0.0

    def draw(self, nonce: str, dispute: float) -> LabelRequest | None:
        """Whether the label of a prediction is requested; the same for one nonce on every replica.

        Args:
            nonce: The prediction's.
            dispute: How far its members disagree, 0 to 1.
        """
        probability = min(1.0, self.share * (1 + self.boost * min(max(dispute, 0.0), 1.0)))
        probability = float(f"{probability:.6g}")  # as short as it is sealed
        chance = int.from_bytes(hashlib.blake2b(nonce.encode(), digest_size=8).digest()) / 2**64
        if not chance < probability:
            return None
        return LabelRequest(reason="sampled" if chance < self.share else "disputed", probability=probability)
