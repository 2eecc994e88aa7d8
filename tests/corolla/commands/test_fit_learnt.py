from tests.corolla.shell import Shell


def test_a_routes_temperature_is_not_fitted_to_images_that_it_was_trained_on(trained: Shell) -> None:
    assert trained("routes", "put", "live", "lora, base", "--task", "digits")[0] == 0
    fit = [
        "routes",
        "fit",
        "live",
        "--task",
        "digits",
        "--data",
        "digits",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    code, out, err = trained(*fit, "--holdout", "0.3", "--split-seed", "1")
    assert code == 0
    assert out.splitlines()[-1].endswith("to measure it: corolla routes reference live --task digits")
    assert "held-out images are training images of lora:1, base: they are left out" in err
