import corolla
from tests.corolla.shell import Shell


def test_a_base_head_is_fitted_again_and_what_changes_is_said(trained: Shell) -> None:
    assert trained("routes", "put", "plain", "base", "--task", "digits")[0] == 0
    refit = ["tasks", "refit-head", "digits", "--data", "digits", "--limit", "120", "--device", "cpu"]
    assert "route digits/plain answer by `base`, which would mean the new base head" in trained.refused(
        *refit
    )
    code, out, _ = trained(*refit, "--move-base")
    assert code == 0
    first, *rest = out.splitlines()
    assert first.startswith("digits version 2: its base head is fitted to 120 images, held-out accuracy 0.")
    assert first.endswith(" before")
    assert rest == [
        "digits/lora:1 stay with version 1; train them again to leave it",
        "`base` now means version 2, so these have changed: route digits/plain",
    ]
    assert "version 2 of task 'digits' has this base head already" in trained.refused(*refit, "--move-base")


def test_programs_refit_and_delete_tasks_too(trained: Shell) -> None:
    with corolla.Store(trained.folder / "store", device="cpu") as store:
        before = store.tasks()[0]
        refitted = store.refit_head("digits", data="digits", limit=100)
        assert (before.version, refitted.version, refitted.training["images"]) == (1, 2, 100)
        assert store.task_versions("digits") == [before, refitted]
        assert store.adapter("lora").task_digest == before.digest
        assert store.delete_task("digits", version=2) == [refitted]
        assert store.delete_task("digits", with_adapters=True) == [before]
        assert (store.tasks(), store.adapters()) == ([], [])
