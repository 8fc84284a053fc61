"""Training for what the predictions become when all MLPs are replaced at once, rather than for each MLP's output.

Errors of many layers add up, and later layers read what earlier ones have made; a dictionary trained layer by layer
sees neither. Here the loss is the divergence of the replaced model's predictions from the model's, back-propagated
through attention and all replaced layers (Braun et al. 2024, "Identifying functionally important features with
end-to-end sparse dictionary learning"; Karvonen 2025, "Revisiting end-to-end sparse autoencoder training").
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.language_model import LanguageModel
from ..models.passes import counted, replaced_logits, run
from . import parallel
from .dictionary import TrainableTranscoders, select
from .step import ALONE, Schedule, StepFigures, apply


def divergence_step(
    model: LanguageModel, dictionary: TrainableTranscoders, optimizer: torch.optim.Adam,
    ids: Int[Tensor, "sequence pos"], silent: Int[Tensor, "layer feature"], plan: Schedule,
    precision: torch.dtype, processes: parallel.Processes = ALONE,
) -> StepFigures:  # fmt: skip
    """Change the parameters by one step down the mean KL(model || replaced) of a batch.

    Position 0 keeps the model's own MLP outputs and is not counted. `fvu` compares what each layer puts out, on the
    input it gets from the replaced layers before it, with what the model's MLP put out at that token.

    Raises:
        TrainingError: a loss or gradient that is not finite; nothing is changed then.
    """
    dense = ids.is_cuda or precision != torch.float32 or not torch.backends.mkl.is_available()
    with torch.autocast(ids.device.type, precision, enabled=precision != torch.float32):
        clean = run(model, ids, "mlp_out")
        assert clean.logits is not None
        targets, truth = [counted(output, torch.float32) for output in clean.outputs], clean.logits
        del clean
        unexplained: list[Tensor] = []
        active: list[Tensor] = []

        def step(layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
            facts = dictionary.statistics[layer]
            x = x / facts.input
            acts = select(
                dictionary, layer, x, plan.k[layer], dense,
                lambda candidates, wanted: parallel.joint_kth(processes, candidates, wanted),
            )  # fmt: skip
            out = dictionary.parameters[f"decoder_bias.{layer}"]
            if f"skip.{layer}" in dictionary.parameters:
                out = torch.addmm(out, x, dictionary.parameters[f"skip.{layer}"].T)
            out = out + acts.decode(dictionary.decoder(layer, layer))
            y = targets[layer] / facts.output
            missed = facts.weights(y, dictionary.config.outlier) * (y - out.detach()).square().sum(-1)
            unexplained.append(missed.mean() / facts.variance)
            active.append(acts.active())
            return out * facts.output

        logits = replaced_logits(model, ids, "mlp_out", "mlp_in", step, torch.float32, gradient=True)
    loss = divergence(counted(truth, torch.float32), counted(logits, torch.float32))
    del truth, logits
    loss.backward()
    tokens = ids.shape[0] * (ids.shape[1] - 1)
    for layer, counts in enumerate(active):
        row = silent[layer, : len(counts)]
        row += tokens * processes.count
        row[counts > 0] = 0
    dead = torch.stack(
        [
            (silent[layer, :width] > dictionary.config.dead_after).float().mean()
            for layer, width in enumerate(dictionary.widths)
        ]
    )
    l0 = torch.stack([counts.sum() / tokens for counts in active]).float()
    measured = StepFigures(torch.stack(unexplained), l0, dead, 0.0, float(loss.detach()))
    apply(dictionary, optimizer, measured, silent, plan.rate, processes)
    return measured


def divergence(truth: Float[Tensor, "token vocab"], logits: Float[Tensor, "token vocab"]) -> Float[Tensor, ""]:
    """Mean over tokens of KL(softmax(truth) || softmax(logits)), in nats.

    >>> divergence(torch.zeros(3, 5), torch.ones(3, 5)).item()
    0.0
    """
    wanted = truth.log_softmax(-1)
    return torch.nn.functional.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean", log_target=True)
