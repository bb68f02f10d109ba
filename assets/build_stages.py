"""A stage of a build that can be stopped at any time and continues to the bit."""

import json
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from utils.files.whole_files import whole_file, write_json
from utils.training.ema import decay_at


class Stage:
    """A stage of the build: modules, their EMA copies, AdamW with a cosine rate, and a state file
    that is either complete or absent."""

    def __init__(self, name, modules, *, steps, lr, ema, args, made_for=()):
        self.name, self.modules, self.steps, self.lr, self.decay = name, modules, steps, lr, ema
        self.path = Path(args.work_dir) / f"{name}.safetensors"
        self.params = [p for m in modules.values() for p in m.parameters()]
        self.optimizer = torch.optim.AdamW(self.params, lr=lr, weight_decay=1e-2, fused=True)
        self.ema = {
            k: {n: p.detach().clone() for n, p in m.state_dict().items()}
            for k, m in modules.items()
        }
        self.step, self.seconds, self.losses = 0, 0.0, []
        self.made_for = {"seed": args.seed, "steps": steps, **dict(made_for)}

    def load(self):
        """Continue from the state file, if it exists."""
        if not self.path.exists():
            return
        state = load_file(self.path)
        info = json.loads(self.path.with_suffix(".json").read_text())
        if info.get("made_for", self.made_for) != self.made_for:
            sys.exit(
                f"{self.path} was made for {info['made_for']}, not {self.made_for}; use another"
                " --work_dir"
            )
        for key, module in self.modules.items():
            module.load_state_dict({n: state[f"{key}/model/{n}"] for n in module.state_dict()})
            self.ema[key] = {
                n: state[f"{key}/ema/{n}"].to(self.params[0].device) for n in module.state_dict()
            }
        moments = {
            i: {k: state[f"optimizer/{i}/{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            for i in range(len(self.params))
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.seconds = int(state["step"]), info["seconds"]
        print(f"{self.name}: continues at step {self.step}")

    def save(self):
        state = {"step": torch.tensor(self.step)}
        for key, module in self.modules.items():
            state |= {f"{key}/model/{n}": p.contiguous() for n, p in module.state_dict().items()}
            state |= {f"{key}/ema/{n}": p.contiguous() for n, p in self.ema[key].items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{i}/{k}": v for k, v in moments.items()}
        with whole_file(self.path) as part:
            save_file({k: v.detach().cpu().clone() for k, v in state.items()}, part)
        write_json(
            self.path.with_suffix(".json"),
            {
                "seconds": self.seconds,
                "step": self.step,
                "steps": self.steps,
                "made_for": self.made_for,
            },
        )

    def decayed(self):
        """The share of the learning rate that is left at this step."""
        return 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    def update(self, loss, warm_up=200):
        """Take an optimizer step and update the EMA copies."""
        decayed = self.decayed()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (self.step + 1) / warm_up) * decayed
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = decay_at(self.step, self.decay)
        with torch.no_grad():
            for key, module in self.modules.items():
                current = module.state_dict()
                names = [n for n in current if current[n].is_floating_point()]
                torch._foreach_lerp_(
                    [self.ema[key][n] for n in names], [current[n] for n in names], 1 - decay
                )
        self.step += 1
        self.losses.append(loss.detach())

    def report(self, every=200):
        if self.step % every == 0:
            mean = torch.stack(self.losses[-every:]).mean().item()
            print(
                f"{self.name}: step {self.step}/{self.steps} loss {mean:.4f}, {self.seconds:.0f} s",
                flush=True,
            )

    def run(self, batches, loss_of, *, save_every):
        """Train until `steps`. batches(step) yields the batches from that step on."""
        while self.step < self.steps:
            for batch in batches(self.step):
                started = time.perf_counter()
                self.update(loss_of(self.step, batch))
                self.seconds += time.perf_counter() - started
                self.report()
                if self.step % save_every == 0 or self.step == self.steps:
                    self.save()
                if self.step == self.steps:
                    break

    def take_ema(self):
        """Replace the weights by their EMA copies, and freeze the modules."""
        for key, module in self.modules.items():
            module.load_state_dict(self.ema[key])
            module.eval().requires_grad_(False)
