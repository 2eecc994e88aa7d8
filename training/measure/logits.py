"""The logits of the models in some routes over labelled images, each image decoded once.

All models answer an image in one forward, through the rows that serve them. What was computed before, on the
same images in any order, is taken from a `LogitStore`.

Shapes: n images, b of a part, K members of a route, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from model_store.resolution.loading import Loader, MemberKey, member_key, model
from model_store.resolution.versions import Member, ResolvedRoute
from model_store.routes import alpha as alphas
from petl_vit import methods
from petl_vit.architecture import Architecture
from petl_vit.batch import Batch
from petl_vit.combine import Answer, combine
from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.logits import images_at_once, logits_of_images
from petl_vit.precision import Precision
from petl_vit.preprocess import normalise
from training.data import shifts
from training.data.loading import Resized
from training.data.records import Dataset
from training.measure.arrays import Floats, Labels, Rows
from training.measure.logit_store import LogitStore

PART = 1024
"""Images that are decoded, computed and stored at a time, so that any set fits in memory."""
_ADAPTER_BYTES = 2 * 2**30  # of adapters in memory at a time
_BLOCK = 8 * 2**20  # members' logits that are put together at a time

Shift = tuple[str, int]
"""A corruption and its severity."""


@dataclass(frozen=True, eq=False)
class Stacked:
    """The logits [n, K, C] of a route's members, put together only for some images at a time.

    Attributes:
        columns: [n, C] of each member, in the order of the answer's classes.
    """

    columns: tuple[Rows, ...]

    def __getitem__(self, rows: slice | Labels) -> Floats:
        """[b, K, C]."""
        return np.stack([column[rows] for column in self.columns], axis=1).astype(np.float64)

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def members(self) -> int:
        return len(self.columns)

    def mean(self, weights: Floats, rows: slice | Labels = slice(None)) -> Floats:
        """[b, C], the members' logits by their weights [K]: what the rule `mean` answers by."""
        total = np.zeros_like(self.columns[0][rows], dtype=np.float64)
        for column, weight in zip(self.columns, weights / weights.sum(), strict=True):
            total += weight * column[rows]
        return total

    def blocks(self) -> Iterator[slice]:
        """Slices of the images, small enough for what is computed of them."""
        size = max(1, _BLOCK // (self.members * self.columns[0].shape[1]))
        for start in range(0, len(self), size):
            yield slice(start, start + size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Logits:
    """What models say of the images of one set under one shift.

    Attributes:
        members: [n, C] of each model, in the order of the set's images and of the model's own classes.
        computed, reused: How many of the models were computed, and found in the store.
    """

    members: Mapping[MemberKey, Rows]
    computed: int = 0
    reused: int = 0

    def stacked(self, route: ResolvedRoute) -> Stacked:
        """A route's members, in the order of the route's classes."""
        columns = []
        for member in route.members:
            z, order = self.members[member_key(member)], route.class_order(member)
            columns.append(z if order is None else z[:, list(order)])
        return Stacked(tuple(columns))

    def of(self, route: ResolvedRoute) -> Floats:
        """[n, K, C] of a route's members, in the order of the route's classes; all at once."""
        return self.stacked(route)[:]

    def answer(self, route: ResolvedRoute, *, temperature: float = 1.0) -> Answer:
        """What a route says of the images; all at once."""
        return combine(self.of(route), weights_of(route), rule=route.combine, temperature=temperature)


def weights_of(route: ResolvedRoute) -> Floats:
    """[K], the weights of a route's members."""
    return np.array([member.weight for member in route.members])


def logits_of_routes(
    loader: Loader,
    routes: Sequence[ResolvedRoute],
    dataset: Dataset,
    *,
    shift: Shift | None = None,
    store: LogitStore | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Logits:
    """The logits of every member of the routes over the images, as they are or under one shift.

    Args:
        store: Where logits are taken from and kept; None computes everything.
        advance: Called with the number of images that are done.

    Raises:
        InvalidInput: There is no image, one cannot be decoded, or a model answers with NaN; names it.
    """
    (logits,) = logits_under(loader, routes, dataset, [shift], store=store, advance=advance)
    return logits


def logits_under(
    loader: Loader,
    routes: Sequence[ResolvedRoute],
    dataset: Dataset,
    under: Sequence[Shift | None],
    *,
    store: LogitStore | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Logits]:
    """As `logits_of_routes`, under each of several shifts: images are decoded once for all of them.

    Memory: 4 bytes for each image, shift, model and class, beside one part of images and the adapters.

    Args:
        under: Shifts, applied after resizing, the same for the same images; None is the images as they are.
        advance: Called with the number of images that are done; once under each shift.
    """
    if not len(dataset):
        raise InvalidInput(
            f"{dataset.name} has no images", field="data", remedy="name a set that has some images"
        )
    wanted = {member_key(member): member for route in routes for member in route.members}
    parts = parts_of(dataset)
    tables = [_Table(of_shift, wanted, len(dataset)) for of_shift in under]
    for spec in dict.fromkeys(member.task.spec.preprocess for member in wanted.values()):
        alike = {key: m for key, m in wanted.items() if m.task.spec.preprocess == spec}
        computing = _Computing(loader, alike, spec, dataset, store)
        for part in parts:
            computing.fill(tables, part, advance)
    if store is not None:
        store.trim()
    return [table.logits() for table in tables]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive images by fingerprint, so that equal sets have equal parts however they are listed.

    Attributes:
        start: Of its first image, in that order; decides what is random in a shift.
        indices: [b], places in the dataset.
    """

    start: int
    indices: Labels
    fingerprints: tuple[str, ...]


def parts_of(dataset: Dataset) -> list[Part]:
    order = np.array(sorted(range(len(dataset)), key=dataset.fingerprints.__getitem__), dtype=np.int64)
    return [
        Part(
            start=start,
            indices=(some := order[start : start + PART]),
            fingerprints=tuple(dataset.fingerprints[i] for i in some),
        )
        for start in range(0, len(order), PART)
    ]


class _Table:
    """What is known under one shift; rows of a model come part by part."""

    def __init__(self, shift: Shift | None, wanted: Mapping[MemberKey, Member], images: int) -> None:
        self.shift, self._images = shift, images
        self._rows = dict[MemberKey, Rows]()
        self._wanted, self._computed = wanted, set[MemberKey]()

    def put(self, key: MemberKey, part: Part, logits: Rows, *, computed: bool) -> None:
        if key not in self._rows:
            self._rows[key] = np.empty((self._images, logits.shape[1]), dtype=np.float32)
        self._rows[key][part.indices] = logits
        if computed:
            self._computed.add(key)

    def logits(self) -> Logits:
        computed = len(self._computed)
        return Logits(members=self._rows, computed=computed, reused=len(self._rows) - computed)


class _Computing:
    """Models that take images alike: from the store, else in forwards that they share."""

    def __init__(
        self,
        loader: Loader,
        members: Mapping[MemberKey, Member],
        spec: Preprocess,
        dataset: Dataset,
        store: LogitStore | None,
    ) -> None:
        self._loader, self._members, self._spec, self._store = loader, members, spec, store
        self._vit = loader.vit(spec.image_size)
        self._dataset = dataset
        self._images = Resized(dataset, spec, self._vit, kept_bytes=0)
        self._forwards: tuple[tuple[MemberKey, ...], list[_Forward]] = ((), [])

    def fill(self, tables: Sequence[_Table], part: Part, advance: Callable[[int], None]) -> None:
        """The rows of one part, under every shift."""
        missing = [self._unstored(table, part) for table in tables]
        pixels = self._images.pixels(torch.from_numpy(part.indices)) if any(missing) else None
        for table, keys in zip(tables, missing, strict=True):
            if pixels is None or not keys:
                advance(len(part.indices))
                continue
            seen = pixels if table.shift is None else shifts.apply(pixels, *table.shift, seed=part.start)
            share = _Shares(len(part.indices), keys, advance)
            for forward in self._forwards_of(keys):
                for key, rows in forward.logits(seen, share).items():
                    self._check(self._members[key], rows)
                    table.put(key, part, rows, computed=True)
                    if self._store is not None:
                        self._store.save(self._key(self._members[key], table.shift, part), rows)

    def _unstored(self, table: _Table, part: Part) -> tuple[MemberKey, ...]:
        """The models that have to be computed; the rows of the others are put."""
        missing = []
        for key, member in self._members.items():
            stored = None
            if self._store is not None:
                stored = self._store.load(self._key(member, table.shift, part), len(part.indices))
            if stored is None or stored.shape[1] != len(member.task.spec.classes):
                missing.append(key)
            else:
                table.put(key, part, stored, computed=False)
        return tuple(missing)

    def _key(self, member: Member, shift: Shift | None, part: Part) -> str:
        of: dict[str, JsonValue] = {
            "backbone": self._loader.record.digest,
            "terms": [[term.digest, alphas.document(alphas.values(term.alpha))] for term in member.terms],
            "precision": str(self._loader.precision),
            "preprocess": self._spec.model_dump(mode="json"),
            "shift": None if shift is None else [*shift, part.start],
        }
        return LogitStore.key(of, part.fingerprints)

    def _forwards_of(self, keys: tuple[MemberKey, ...]) -> "Iterator[_Forward]":
        """Groups of models whose adapters fit in memory; a single group stays for the next part."""
        if keys == self._forwards[0]:
            yield from self._forwards[1]
            return
        self._forwards = ((), [])
        groups = _groups([self._members[key] for key in keys], self._vit.arch)
        for group in groups:
            forward = _Forward(self._loader, group, self._spec)
            if len(groups) == 1:
                self._forwards = (keys, [forward])
            yield forward

    def _check(self, member: Member, rows: Rows) -> None:
        bad = int((~np.isfinite(rows)).any(axis=1).sum())
        if not bad:
            return
        half = self._loader.precision is Precision.BF16
        raise InvalidInput(
            f"{member.text(with_task=True)} answers {bad} of {len(rows)} images of {self._dataset.name} with "
            "numbers that are not finite",
            field="route",
            remedy="try --precision fp32, or leave it out" if half else "leave it out, or train it again",
        )


@dataclass(kw_only=False)
class _Shares:
    """Counts the rows of all models of a part, and tells how many images that is."""

    images: int
    keys: tuple[MemberKey, ...]
    advance: Callable[[int], None]
    _rows: int = field(default=0, init=False)

    def add(self, rows: int) -> None:
        before = self._rows // len(self.keys)
        self._rows += rows
        self.advance(self._rows // len(self.keys) - before)


class _Forward:
    """Models that answer an image in one forward; their adapters are in memory while it is there."""

    def __init__(self, loader: Loader, members: Sequence[Member], spec: Preprocess) -> None:
        terms = {term.digest: term for member in members for term in member.terms}
        adapters = {digest: loader.adapter(term) for digest, term in terms.items()}
        self._models = {member_key(member): model(member, adapters) for member in members}
        self._spec = spec
        dense = sum(one.dense for one in self._models.values())
        self._batch = Batch(loader.vit(spec.image_size), folded_models=max(1, dense))

    def logits(self, pixels: Tensor, share: _Shares) -> dict[MemberKey, Rows]:
        """[b, C] of each model on images uint8 [b, 3, S, S]."""
        size, found = images_at_once(len(self._models)), list[list[Tensor]]()
        for start in range(0, len(pixels), size):
            images = normalise(pixels[start : start + size], self._spec)
            found.append(logits_of_images(self._batch, list(self._models.values()), images))
            share.add(len(images) * len(self._models))
        of_models = (torch.cat(of_model).float().numpy() for of_model in zip(*found, strict=True))
        return dict(zip(self._models, of_models, strict=True))


def _groups(members: Sequence[Member], arch: Architecture) -> list[list[Member]]:
    """Members grouped so that the adapters of a group fit in memory; one too large for that is alone."""
    groups, total = [list[Member]()], 0
    for member in members:
        nbytes = _nbytes(member, arch)
        if groups[-1] and total + nbytes > _ADAPTER_BYTES:
            groups, total = [*groups, []], 0
        groups[-1].append(member)
        total += nbytes
    return groups


def _nbytes(member: Member, arch: Architecture) -> int:
    """Bytes of a member's adapters, and of the parameters that they may be folded into."""
    manifests = [t.manifest for t in member.terms if t.manifest is not None]
    return sum(2 * 4 * methods.get(m.method).configure(m.config).parameters(arch) for m in manifests)
