import pytest
from timm.models.vision_transformer import VisionTransformer

from tests.petl_vit.references.models import ARCHITECTURES, create


@pytest.fixture(scope="module", params=ARCHITECTURES)
def vit(request: pytest.FixtureRequest) -> VisionTransformer:
    return create(request.param)


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def unlike(request: pytest.FixtureRequest) -> VisionTransformer:
    """The two architectures that between them have every kind of part."""
    return create(request.param)


@pytest.fixture(scope="module")
def small() -> VisionTransformer:
    return create("mean_pooled")
