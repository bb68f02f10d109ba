"""The benchmark of a training step with LoRA, on very few steps."""

from benchmarks import train_step


def test_lora_is_measured_beside_full_weights_and_the_recipe(capsys):
    sizes = {"lora_rank": 2, "steps": 1, "rounds": 1, "batch": 1, "images": 2, "num_workers": 0}
    train_step.main([w for name, value in sizes.items() for w in (f"--{name}", str(value))])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    cells = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in rows}
    assert {train_step.RECIPE, "LoRA, ours", "full weights, ours", "LoRA, bare"} < set(cells)
    # weights, gradients and two moments of 1.69 M weights, or of adapters alone
    assert float(cells["LoRA, ours"]) < 0.5 * float(cells["full weights, ours"])
    assert "ours / bare:" in printed
