"""A study as one Markdown page: the main table, the claims, and what they were judged by."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.claims import Study, claims
from benchmarks.study.domains import Domains
from benchmarks.study.plan import ONE, Plan, name_of
from training.measure.document import Evaluation, load_evaluation


def written(folder: Path, plan: Plan, domains: Domains) -> str:
    """The page of the evaluations in a folder."""
    methods, seeds, eight = (
        load_evaluation(folder / f"{name}.json") for name in ("methods", "seeds", "eight")
    )
    study = Study(plan=plan, methods=methods, seeds=seeds, eight=eight)
    machine = methods.machine
    sizes = ", ".join(f"{one.name} {one.images:,}" for one in methods.sets)
    return "\n".join(
        [
            f"Backbone {methods.backbone.name}; {plan.images:,} images of {domains.source} to train on, "
            f"{plan.epochs} epochs of batches of {plan.batch_size}; measured on {sizes} images. "
            f"Computed on {machine.cpu}, {machine.cores} cores, measured in {machine.precision}.",
            "",
            "## Accuracy, %",
            "",
            f"Mean ± deviation over {plan.seeds} seeds; heads start from the probe.",
            "",
            *_main_table(study),
            "",
            "## The claims",
            "",
            *_claims(study),
            "",
            f"## Eight methods, eight seeds of {ONE}",
            "",
            *_eight_table(study),
            "",
            "## Weight interpolation, accuracy in % by alpha",
            "",
            *_alphas(methods, study),
            "",
        ]
    )


def _main_table(study: Study) -> list[str]:
    sets = [study.here, *study.shifted]
    parameters = {route.label: route.parameters for route in study.seeds.routes}
    rows = []
    for method in study.plan.methods:
        label = study.label(study.seeds, [name_of(method, 0)])
        cells = [str(study.spread(method, on)) for on in sets]
        rows.append([method, f"{parameters[label]:,}", *cells, str(study.shifted_spread(method))])
    return _table(["method", "parameters", *sets, "mean of the shifted"], rows)


def _claims(study: Study) -> list[str]:
    lines = []
    for claim in claims(study):
        lines += [f"**{claim.claim}: {claim.verdict}.** Rule: {claim.rule}. {claim.found}.", ""]
    return lines[:-1]


def _eight_table(study: Study) -> list[str]:
    rows = []
    for head in ("probe", "random"):
        groups = {
            f"eight methods, {head} heads": [name_of(method, 0, head) for method in study.plan.eight],
            f"eight seeds of {ONE}, {head} heads": [name_of(ONE, s, head) for s in range(study.plan.members)],
        }
        for what, names in groups.items():
            label = study.label(study.eight, names)
            for on in (study.here, *study.shifted):
                result = study.eight.result(label, on)
                members = list(result.member_accuracies.values())
                calibrated = f"{result.calibrated.ece:.3f}" if result.calibrated else ""
                rows.append(
                    [
                        what,
                        on,
                        f"{100 * result.accuracy:.1f} ({100 * result.low:.1f} to {100 * result.high:.1f})",
                        f"{100 * sum(members) / len(members):.1f}",
                        f"{result.agreement:.3f}",
                        f"{result.raw.ece:.3f}",
                        calibrated,
                        f"{result.raw.nll:.3f}",
                    ]
                )
    head_row = [
        "ensemble",
        "set",
        "accuracy (95 %)",
        "members' mean",
        "agreement",
        "ECE",
        "ECE calibrated",
        "NLL",
    ]
    return _table(head_row, rows)


def _alphas(methods: Evaluation, study: Study) -> list[str]:
    if not methods.curves:
        return ["No alpha was measured."]
    alphas = methods.curves[0].alphas
    rows = [
        [curve.method, on, *(f"{100 * accuracy:.1f}" for accuracy in curve.accuracy[on])]
        for curve in methods.curves
        for on in (study.here, *study.shifted)
    ]
    return _table(["method", "set", *(f"{alpha:g}" for alpha in alphas)], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; columns of figures are to the right."""
    rule = ["---" if place < 1 else "---:" for place in range(len(head))]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
