"""The papers' equations once more, in NumPy on whole task vectors; nothing here knows `training.merges`."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from petl_vit.adapter import Adapter
from petl_vit.edits import fold
from petl_vit.vit import FrozenViT

Vector = dict[str, NDArray[np.float64]]


def task_vector(adapter: Adapter, vit: FrozenViT) -> Vector:
    """theta - theta_0 of every parameter of the backbone."""
    weights = fold(vit.params, [(edit, 1.0) for edit in adapter.edits.edits])
    names = {*vit.arch.shapes, *(weights.keys() - vit.params.keys())}
    frozen = {name: vit.params[name] if name in vit.params else 0 * weights[name] for name in names}
    return {name: (weights[name] - frozen[name]).numpy() for name in sorted(names)}


def ties(vectors: list[Vector], density: float) -> Vector:
    """Algorithm 1 of arXiv 2306.01708 with lambda 1; a member's share is of the parameters it changes."""
    trimmed = []
    for vector in vectors:
        changed = [name for name in vector if vector[name].any()]
        flat = np.concatenate([vector[name].ravel() for name in changed])
        kept = np.argsort(-np.abs(flat))[: round(density * flat.size)]
        sparse = np.zeros_like(flat)
        sparse[kept] = flat[kept]
        cuts = np.cumsum([vector[name].size for name in changed])[:-1]
        parts = dict(zip(changed, np.split(sparse, cuts), strict=True))
        trimmed.append({name: parts.get(name, np.zeros(vector[name].size)) for name in vector})
    merged = {}
    for name, like in vectors[0].items():
        values = np.array([vector[name] for vector in trimmed])
        signs = np.sign(values.sum(axis=0))
        agreeing = np.where(np.sign(values) == signs, values, 0.0)
        counts = np.maximum(1, np.count_nonzero(agreeing, axis=0))
        merged[name] = (agreeing.sum(axis=0) / counts).reshape(like.shape)
    return merged


def tsv(vectors: list[Vector]) -> Vector:
    """TSV-Merge of arXiv 2412.00081: 1/T of each task's components, whitened; other parameters averaged."""
    merged = {}
    for name, like in vectors[0].items():
        if like.ndim != 2:
            merged[name] = sum(vector[name] for vector in vectors) / len(vectors)
            continue
        kept = min(like.shape) // len(vectors)
        u, s, vt = zip(*(np.linalg.svd(vector[name], full_matrices=False) for vector in vectors), strict=True)
        left = np.hstack([each[:, :kept] for each in u])
        right = np.vstack([each[:kept] for each in vt])
        sigma = np.diag(np.concatenate([each[:kept] for each in s]))
        merged[name] = procrustes(left) @ sigma @ procrustes(right)
    return merged


def procrustes(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """P Q^T of P D Q^T."""
    p, _, qt = np.linalg.svd(matrix, full_matrices=False)
    return p @ qt


def model_stock(vectors: list[Vector]) -> Vector:
    """t w_avg + (1 - t) w_0 of arXiv 2403.19522, layer by layer, where all members change the layer."""
    merged = {}
    count = len(vectors)
    for name in vectors[0]:
        layers = [vector[name].ravel() for vector in vectors]
        pairs = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in combinations(layers, 2)]
        cosine = np.mean(pairs)
        t = count * cosine / ((count - 1) * cosine + 1)
        merged[name] = np.clip(t, 0, 1) * sum(vector[name] for vector in vectors) / count
    return merged
