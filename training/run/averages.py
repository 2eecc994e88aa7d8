"""Members of a soup or a merge, and what is made of them, measured on held-out images.

Shapes: n images, C classes, D width.
"""

from torch import Tensor

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Term
from petl_vit.methods.method import Method
from training.progress import Reporter
from training.run.heldout import HeldOut


class Averages:
    """Measures averages of the members on held-out images."""

    def __init__(
        self, loader: Loader, members: list[ResolvedTerm], heldout: HeldOut, reporter: Reporter
    ) -> None:
        task = members[0].task
        self._vit = loader.vit(task.spec.preprocess.image_size)
        self.heldout, self.arch = heldout, self._vit.arch
        self._adapters: dict[str, Adapter] = {term.digest: loader.adapter(term) for term in members}
        self._base = Adapter.base(base_head=loader.base_head(task), task_digest=task.digest)
        self._batch, self._reporter = Batch(self._vit, folded_models=1), reporter

    def each(self, terms: list[ResolvedTerm]) -> dict[str, float]:
        """The accuracy of each term by itself, by digest; dense ones run alone."""
        models = {term.digest: self.average([term]) for term in terms}
        together = [digest for digest, model in models.items() if not model.dense]
        groups = [*([together] if together else []), *([d] for d in models if d not in together)]
        labels, accuracies = {term.digest: term.label for term in terms}, dict[str, float]()
        for group in groups:
            logits = self._run([models[d] for d in group], ", ".join(labels[d] for d in group))
            accuracies |= {digest: self._accuracy(z) for digest, z in zip(group, logits, strict=True)}
        return accuracies

    def accuracy(self, terms: list[ResolvedTerm]) -> float:
        """Of the average of the terms."""
        (logits,) = self._run([self.average(terms)], " + ".join(term.label for term in terms))
        return self._accuracy(logits)

    def answers(self, model: Model) -> tuple[Tensor, Tensor, Tensor]:
        """[n, C] of a model and of the task's base head, and the frozen features [n, D]."""
        models = [model, Model([Term(adapter=self._base)])]
        with self._reporter.stage("measuring the result", len(self.heldout.images)) as advance:
            (found, base), features = self.heldout.answers(self._batch, models, advance)
        return found, base, features

    def average(self, terms: list[ResolvedTerm]) -> Model:
        """All terms with equal shares."""
        share = 1 / len(terms)
        return Model([Term(adapter=self._adapters[term.digest], alpha=share) for term in terms])

    def model(self, method: Method, tensors: dict[str, Tensor]) -> Model:
        """An adapter that is not published yet."""
        adapter = Adapter.load(
            digest=method.name,
            method=method,
            tensors=tensors,
            vit=self._vit,
            base_head=self._base.head,
            task_digest=self._base.task_digest,
        )
        return Model([Term(adapter=adapter)])

    def _run(self, models: list[Model], what: str) -> list[Tensor]:
        """[n, C] of each model, on the CPU."""
        with self._reporter.stage(f"measuring {what}", len(self.heldout.images)) as advance:
            return self.heldout.logits(self._batch, models, advance)

    def _accuracy(self, logits: Tensor) -> float:
        return float((logits.argmax(dim=-1) == self.heldout.labels).double().mean())
