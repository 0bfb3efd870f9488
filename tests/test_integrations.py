"""Others' trainers reach the numbers of a plain loop: Lightning, Hugging Face, skorch.

Each is compared in float64 with the loop written out, for the same data order and draws. Where a
library is not installed, its tests are skipped.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from aba_core import Regularizer

ROOT = Path(__file__).parents[1]
MENDABA = {"kind": "mendaba", "strength": 0.5}
# Inputs alone; inputs and labels; the gradient; the loss; activations of a layer.
METHODS = {
    "mendaba": MENDABA,
    "mixup": "mixup",
    "sam": {"kind": "sam", "rho": 0.1},
    "maxsup": "maxsup",
    "hidden": {"kind": "mendaba", "strength": 0.5, "site": "1"},
}
INPUTS = ("mendaba", "mixup")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return nn.Sequential(*layers).double()


def data(samples: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 6, generator=drawn, dtype=torch.float64)
    return x, torch.arange(samples) % 3


def plain_loop(method, epochs: int, batch: int = 8, seed: int = 3, rate: float = 0.1) -> nn.Module:
    """The loop that everybody writes, in the order of the data."""
    model, (x, y) = network(), data()
    regularizer = Regularizer(method, seed, steps=epochs * (len(x) // batch))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(epochs):
        for rows in torch.arange(len(x)).split(batch):
            optimizer.zero_grad()
            regularizer.backward(model, x[rows], y[rows])
            optimizer.step()
    return model


def assert_same(model: nn.Module, other: nn.Module) -> None:
    """The same parameters and statistics, and not those of the start."""
    values = other.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, values[name], rtol=1e-10, atol=1e-12)
    assert not torch.equal(model[0].weight, network()[0].weight)


# --- a loss for any trainer -----------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_for_a_trainer_has_the_gradient_of_the_method(name):
    method = METHODS[name]
    model, other, (x, y) = network(), network(), data()
    first, second = Regularizer(method, seed=2), Regularizer(method, seed=2)
    for rows in torch.arange(24).split(8):
        expected = first.backward(model, x[rows], y[rows])
        loss = second.training_loss(other, x[rows], y[rows])
        (0.5 * loss).backward()  # as a trainer that accumulates two batches does
        torch.testing.assert_close(loss.detach(), expected)
    for value, twin in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(value.grad, 0.5 * twin.grad, rtol=1e-10, atol=1e-12)
    assert first.step == second.step == 3


def test_ranks_draw_for_their_own_part_of_the_batch():
    model, (x, y) = network().eval(), data()
    whole, _ = Regularizer(MENDABA, seed=5)(model, x, y)
    parts = [
        Regularizer(MENDABA, seed=5, rank=rank)(model, x[rows], y[rows])[0]
        for rank, rows in enumerate(torch.arange(24).split(12))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(parts[0] - x[:12], parts[1] - x[12:])


def test_inputs_that_ask_for_gradients_get_them():
    model, (x, y) = network().eval(), data()
    embedded = (2 * x).requires_grad_()
    changed, _ = Regularizer(MENDABA, seed=5)(model, embedded, y)
    plain, _ = Regularizer(MENDABA, seed=5)(model, 2 * x, y)
    assert torch.equal(changed, plain) and not plain.requires_grad
    (gradient,) = torch.autograd.grad(changed.sum(), embedded)
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_a_missing_library_is_one_error_that_names_the_extra():
    code = (
        "import sys\nfrom importlib import import_module\n"
        "for name in ('pytorch_lightning', 'lightning', 'transformers', 'skorch'):\n"
        "    sys.modules[name] = None\n"
        "for name in ('lightning', 'transformers', 'skorch'):\n"
        "    try:\n        import_module('aba_core.integrations.' + name)\n"
        "    except ImportError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"aba_core.integrations.{name} needs {library}; install: pip install 'aba-toolkit[{name}]'"
        for name, library in (
            ("lightning", "pytorch-lightning"),
            ("transformers", "transformers"),
            ("skorch", "skorch"),
        )
    ], done.stderr


# --- Lightning ------------------------------------------------------------------------------------


def lightning(epochs: int, folder: Path, **given):
    """A Trainer that writes nothing."""
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, logger=False)
    given = {"enable_checkpointing": False, **given}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet, **given
    )


def lightning_module(step):
    """A LightningModule with a network of its own. step: (module, batch) → loss."""
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return step(self, batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def usual(module, batch):
    x, y = batch
    return cross_entropy(module(x), y)


pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*data()), batch_size=8)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("model", ["", "net"])
def test_a_callback_of_lightning_trains_as_the_plain_loop(name, model, tmp_path):
    trainer = lightning(3, tmp_path, callbacks=[])
    from aba_core.integrations.lightning import RegularizerCallback

    module = lightning_module(usual)
    trainer.callbacks.append(RegularizerCallback(METHODS[name], seed=3, model=model))
    trainer.fit(module, loader())
    assert_same(module.net, plain_loop(METHODS[name], epochs=3))


@pytest.mark.parametrize("name", ["sam", "hidden"])
def test_the_loss_of_a_training_step_may_be_that_of_any_method(name, tmp_path):
    regularizer = Regularizer(METHODS[name], seed=3)
    module = lightning_module(lambda module, batch: regularizer.training_loss(module.net, *batch))
    lightning(2, tmp_path).fit(module, loader())
    assert_same(module.net, plain_loop(METHODS[name], epochs=2))


def test_lightning_goes_on_from_a_checkpoint_with_the_draws_of_later_steps(tmp_path):
    lightning(1, tmp_path)
    from aba_core.integrations.lightning import RegularizerCallback

    callback = RegularizerCallback(MENDABA, seed=3)
    trainer = lightning(1, tmp_path, callbacks=[callback])
    trainer.fit(lightning_module(usual), loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    module, callback = lightning_module(usual), RegularizerCallback(MENDABA, seed=3)
    trainer = lightning(3, tmp_path, callbacks=[callback])
    trainer.fit(module, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert callback.regularizer.step == 9
    assert_same(module.net, plain_loop(MENDABA, epochs=3))


def test_lightning_is_told_what_a_callback_cannot_do(tmp_path):
    trainer = lightning(1, tmp_path)
    from aba_core.integrations.lightning import RegularizerCallback

    for name, what in (("sam", "gradient"), ("maxsup", "loss"), ("hidden", "layer '1'")):
        with pytest.raises(ValueError, match=f"changes the {what}, .* needed: Regularizer.train"):
            RegularizerCallback(METHODS[name])
    callback = RegularizerCallback(MENDABA, labels="label")
    with pytest.raises(ValueError, match="labels 'label' of a batch that has 2 parts"):
        callback.on_train_batch_start(trainer, network(), list(data()), 0)
    with pytest.raises(ValueError, match="the batch is a tuple; needed: a list or a dict"):
        callback.on_train_batch_start(trainer, network(), data(), 0)


# --- Hugging Face ---------------------------------------------------------------------------------


def vision_transformer():
    hub = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = hub.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=4, patch_size=2, num_channels=1, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return hub.ViTForImageClassification(config).double()


def pictures() -> list[dict]:
    drawn = torch.Generator().manual_seed(1)
    x = torch.randn(24, 1, 4, 4, generator=drawn, dtype=torch.float64)
    return [{"pixel_values": x[n], "labels": n % 3} for n in range(24)]


def text_transformer():
    hub = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = hub.DistilBertConfig(
        vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=8, num_labels=3, dropout=0.0,
        attention_dropout=0.0, seq_classif_dropout=0.0, max_position_embeddings=6,
    )  # fmt: skip
    return hub.DistilBertForSequenceClassification(config).double()


def texts() -> list[dict]:
    drawn = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 20, (24, 6), generator=drawn)
    mask = torch.ones_like(ids)
    mask[::3, 4:] = 0
    return [{"input_ids": ids[n], "attention_mask": mask[n], "labels": n % 3} for n in range(24)]


def hugging_face(model, dataset, folder, **given):
    hub = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from aba_core.integrations.transformers import RegularizedTrainer

    options = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 0.1,
        "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "seed": 3,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "logging_strategy": "no", **given.pop("options", {}),
    }  # fmt: skip
    args = hub.TrainingArguments(output_dir=str(folder), **options)

    class InOrder(RegularizedTrainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return InOrder(model, args, train_dataset=dataset, **given)


class Logits(nn.Module):
    """A model of pictures as the plain loop has it."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(pixel_values=x).logits


@pytest.mark.parametrize("name", ["mendaba", "mixup", "sam", "maxsup"])
def test_the_trainer_of_hugging_face_trains_as_the_plain_loop(name, tmp_path):
    model, dataset = vision_transformer(), pictures()
    method = METHODS[name]
    options = {"gradient_accumulation_steps": 1 if name == "sam" else 3}
    hugging_face(model, dataset, tmp_path, method=method, options=options).train()
    twin = Logits(vision_transformer())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    regularizer = Regularizer(method, seed=3)
    x = torch.stack([one["pixel_values"] for one in dataset])
    y = torch.tensor([one["labels"] for one in dataset])
    parts = options["gradient_accumulation_steps"]
    for turn, rows in enumerate([*torch.arange(24).split(8)] * 2):
        (regularizer.training_loss(twin, x[rows], y[rows]) / parts).backward()
        if (turn + 1) % parts == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert regularizer.step == 6
    for (name, value), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-11, msg=name)
    start = vision_transformer()
    assert not torch.equal(model.classifier.weight, start.classifier.weight)


@pytest.mark.parametrize("name", ["mendaba", "maxsup"])
def test_text_is_changed_in_its_embeddings_which_are_trained(name, tmp_path):
    model, dataset = text_transformer(), texts()
    trained = hugging_face(model, dataset, tmp_path, method=METHODS[name], inputs="inputs_embeds")
    trained.train()
    twin = text_transformer()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    regularizer = Regularizer(METHODS[name], seed=3)
    columns = {
        key: torch.stack([torch.as_tensor(one[key]) for one in dataset]) for key in dataset[0]
    }

    class OfEmbeddings(nn.Module):
        mixes_samples = True

        def __init__(self) -> None:
            super().__init__()
            self.model = twin

        def forward(self, x):
            return self.model(inputs_embeds=x, attention_mask=mask[: len(x)]).logits

    for rows in [*torch.arange(24).split(8)] * 2:
        mask, y = columns["attention_mask"][rows], columns["labels"][rows]
        embedded = twin.get_input_embeddings()(columns["input_ids"][rows])
        loss = regularizer.training_loss(OfEmbeddings(), embedded, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, value), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-11, msg=name)
    moved = model.get_input_embeddings().weight != text_transformer().get_input_embeddings().weight
    assert moved[1:].any(1).sum() > 10


def test_the_trainer_continues_with_the_draws_of_later_steps(tmp_path):
    given = {"method": {**MENDABA, "strength": 5.0}, "inputs": "inputs_embeds"}
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole, again = text_transformer(), text_transformer()
    hugging_face(whole, texts(), tmp_path, **given, options=saving).train()
    trainer = hugging_face(again, texts(), tmp_path, **given, options=saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert trainer.regularizer.step == 6
    for value, other in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-11)


def test_evaluation_by_the_trainer_is_untouched(tmp_path):
    model, dataset = vision_transformer(), pictures()
    trainer = hugging_face(model, dataset, tmp_path, method={**MENDABA, "strength": 50.0})
    loss = trainer.evaluate(dataset)["eval_loss"]
    x = torch.stack([one["pixel_values"] for one in dataset])
    expected = cross_entropy(model(pixel_values=x).logits, torch.arange(24) % 3)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    assert trainer.regularizer.step == 0


def test_the_trainer_is_told_what_does_not_go_together(tmp_path):
    def tried(name, model, dataset, match, **given):
        with pytest.raises(ValueError, match=match):
            hugging_face(model, dataset, tmp_path, method=METHODS[name], **given).train()

    tried("mendaba", vision_transformer(), texts(), "the batch has no 'pixel_values'; it has")
    tried(
        "sam", text_transformer(), texts(), "a batch with 'inputs_embeds' in place of 'input_ids'",
        inputs="inputs_embeds",
    )  # fmt: skip
    tried(
        "sam", vision_transformer(), pictures(), "label_smoothing_factor is given, and 'sam'",
        options={"label_smoothing_factor": 0.1},
    )  # fmt: skip


# --- skorch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_skorch_trains_as_the_plain_loop(name):
    pytest.importorskip("skorch", reason="skorch is not installed")
    from aba_core.integrations.skorch import RegularizedClassifier

    x, y = (values.numpy() for values in data())
    net = RegularizedClassifier(
        network, method=METHODS[name], seed=3, max_epochs=2, lr=0.1, batch_size=8,
        train_split=None, verbose=0, iterator_train__shuffle=False,
    )  # fmt: skip
    net.fit(x, y)
    assert_same(net.module_, plain_loop(METHODS[name], epochs=2))
    np.testing.assert_allclose(net.predict_proba(x).sum(1), 1.0)


def test_a_grid_of_methods_is_searched_by_scikit_learn():
    pytest.importorskip("skorch", reason="skorch is not installed")
    from sklearn.model_selection import GridSearchCV

    from aba_core.integrations.skorch import RegularizedClassifier

    x, y = (values.numpy() for values in data())
    net = RegularizedClassifier(network, max_epochs=3, lr=0.1, train_split=None, verbose=0)
    search = GridSearchCV(net, {"method": [None, MENDABA, "sam"]}, cv=2, scoring="accuracy")
    search.fit(x, y)
    assert len(search.cv_results_["mean_test_score"]) == 3
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
