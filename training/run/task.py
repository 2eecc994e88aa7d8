"""The task of a run: as it stands in the store, or new with a base head of its own."""

from model_store.format.records import BackboneRecord, TaskRecord, TaskSpec
from model_store.names import class_name, differences
from model_store.store import Store
from petl_vit.errors import Conflict, InvalidInput
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from training.data.loading import Resized
from training.data.records import Dataset
from training.progress import Reporter
from training.run import probe
from training.run.training_data import TrainingData
from training.run.transform import Input


def new_spec(name: str, classes: tuple[str, ...], backbone: BackboneRecord, wanted: Input) -> TaskSpec:
    """A task of these classes on a backbone."""
    preprocess = wanted.preprocess(backbone.config)
    return TaskSpec.of(name=name, classes=classes, preprocess=preprocess, backbone_digest=backbone.digest)


def check_spec(spec: TaskSpec, dataset: Dataset, wanted: Input) -> None:
    """Refuse settings and data that a task, as it stands, would ignore.

    Raises:
        InvalidInput: Another input or other classes than the task's.
    """
    wanted.check(spec)
    expected, found = (set(map(class_name, classes)) for classes in (spec.classes, dataset.classes))
    if found != expected:
        raise _other_classes(spec.name, dataset.name, found=found, expected=expected)


def _other_classes(task: str, source: str, *, found: set[str], expected: set[str]) -> InvalidInput:
    """The error that says which side has which classes."""
    listed = differences(found, expected, whose="task")
    if found < expected:
        problem = f"{source} has no images of {listed}, which task {task!r} has"
        remedy = "give images of every class, or choose another --task name for these classes alone"
    elif found > expected:
        problem = f"task {task!r} has other classes than {source}: it does not have {listed}"
        remedy = "leave them out, or choose another --task name for other classes"
    else:
        problem = f"task {task!r} has other classes than {source}: they differ in {listed}"
        only, missing = len(found - expected), len(expected - found)
        problem += f" (only in {source}: {only}, only in the task: {missing})"
        remedy = "choose another --task name for other classes"
    return InvalidInput(problem, field="data", remedy=remedy)


def create(
    store: Store, spec: TaskSpec, vit: FrozenViT, images: Resized, data: TrainingData, reporter: Reporter
) -> TaskRecord:
    """Fit the linear probe that is the task's alpha = 0 end, once, and store both.

    Args:
        vit: The backbone in float32, on the device of the images.
        data: What the images are.

    Raises:
        Conflict: Another run has stored the task differently meanwhile.
    """
    if data.limit is not None or data.shots is not None:
        fewer = "--limit" if data.shots is None else "--shots"
        reporter.note(
            f"all adapters of task {spec.name} will start from a base head that is fitted to the "
            f"{len(images)} images of this {fewer}; `corolla tasks refit-head {spec.name}` fits it to more"
        )
    head = fit_base_head(spec, vit, images, reporter)
    data.remember(store)
    try:
        return store.tasks.put(spec, head.tensors(), data.record())
    except Conflict:  # another run of the same task was faster; its base head stands
        task = store.tasks.get(spec.name, spec.backbone_digest)
        if task.spec != spec:
            raise
        return task


def fit_base_head(spec: TaskSpec, vit: FrozenViT, images: Resized, reporter: Reporter) -> LinearHead:
    """The linear probe of a task on the frozen features of images."""
    with reporter.stage("fitting the base head", len(images)) as advance:
        features = probe.features(vit, (images.batch(i) for i in images.batches()), advance)
        return probe.fit(features, images.labels, len(spec.classes))
