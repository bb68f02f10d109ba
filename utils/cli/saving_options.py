"""The flags of diff_train.py about what a run saves, resumes and uploads."""

from dataclasses import dataclass

from utils.cli.flags import Options, flag, switch
from utils.cli.kinds import MOST_AT_ONCE, PATH, SEED, count
from utils.runtime.errors import UsageError

# titles of --help
SAVING = "what is saved"
RESUMING = "resuming"
UPLOAD = "upload"


@dataclass(frozen=True, kw_only=True)
class SavingOptions(Options):
    """Flags of previews, checkpoints, states and uploads."""

    modelsaverounds: int = flag(
        5,
        kind=count(1),
        group=SAVING,
        help="number of rounds between checkpoints of an ensemble",
        may_change_on_resume=True,
    )
    output_dir: str = flag(
        "text-inversion-model",
        kind=PATH,
        group=SAVING,
        help="folder of the run; must be new, unless the run is resumed",
        may_change_on_resume=True,
    )
    resume_from_checkpoint: str | None = flag(
        None,
        kind=PATH,
        group=RESUMING,
        help="state in --output_dir from which the run continues: latest, or a state's name",
        unset="a new run",
        may_change_on_resume=True,
    )
    generation_seed: int = flag(
        1024,
        kind=SEED,
        group=SAVING,
        help="seed of the previews",
        may_change_on_resume=True,
    )
    sample_batch_size: int = flag(
        4,
        kind=count(1, MOST_AT_ONCE),
        group=SAVING,
        help=(
            "number of images in a preview grid, of prompts of the training images, and of class"
            " images that are generated at once"
        ),
        may_change_on_resume=True,
    )
    validation_prompt: tuple[str, ...] = flag(
        (),
        repeat=True,
        group=SAVING,
        help="prompt of one more image of every preview grid; the flag may be repeated",
        unset="prompts of the training images alone",
        may_change_on_resume=True,
    )
    save_steps: int = flag(
        500,
        kind=count(1),
        group=SAVING,
        help="number of optimizer steps between preview grids",
        may_change_on_resume=True,
    )
    modelsavesteps: int = flag(
        1000,
        kind=count(1),
        group=SAVING,
        help="number of optimizer steps between checkpoints",
        may_change_on_resume=True,
    )
    state_steps: int | None = flag(
        None,
        kind=count(1),
        group=RESUMING,
        help="number of optimizer steps between states from which a run can be resumed",
        unset="--modelsavesteps",
        may_change_on_resume=True,
    )
    checkpoints_total_limit: int = flag(
        1,
        kind=count(1),
        group=RESUMING,
        help="number of states to keep; older ones are deleted, checkpoints never",
        may_change_on_resume=True,
    )
    log_steps: int = flag(
        10,
        kind=count(1),
        group=SAVING,
        help="number of optimizer steps between rows of metrics.jsonl",
        may_change_on_resume=True,
    )
    push_to_hub: bool = switch(
        group=UPLOAD, help="upload of the final checkpoint to the hub", may_change_on_resume=True
    )
    hub_token: str | None = flag(
        None,
        group=UPLOAD,
        help="token of the hub; never written anywhere",
        unset="the token of this machine's login",
        may_change_on_resume=True,
        secret=True,
    )
    hub_model_id: str | None = flag(
        None,
        group=UPLOAD,
        help="name on the hub: owner/name",
        unset="the name of --output_dir",
        may_change_on_resume=True,
    )

    def _check_upload(self) -> None:
        if not self.push_to_hub and (self.hub_model_id or self.hub_token):
            name = "--hub_model_id" if self.hub_model_id else "--hub_token"
            raise UsageError(f"{name} is used with --push_to_hub; give both or neither")
