"""The adapters in the real frameworks: each trains as a plain loop would, and reads the outputs as the objective does.

Run by ``.ci/run`` with the frameworks installed: ``pytest -m frameworks``.
"""

import copy
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import catchment as ct

pytestmark = pytest.mark.frameworks
PAGES = sorted((Path(__file__).parents[2] / "docs").glob("with-*.md"))
EXAMPLE = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.arange(96) % 3
    X = (rng.normal(size=(96, 4)) + 4 * np.eye(3, 4)[y]).astype(np.float32)
    return torch.from_numpy(X), torch.from_numpy(y)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3 + 1))


def trained_by_hand(net, objective, X, y, batch=32, lr=0.1):
    """One epoch of SGD in order."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for rows in torch.arange(len(X)).split(batch):
        optimizer.zero_grad()
        objective(net(X[rows]), y[rows]).backward()
        optimizer.step()
    return net


def assert_same_weights(one, other):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.detach().cpu(), b.detach().cpu(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pages_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    for match in EXAMPLE.finditer(text):
        line = text[: match.start()].count("\n") + 1
        exec(compile("\n" * line + match[1], str(page), "exec"), {"__name__": "example"})
    assert "```py" in text


class TestHuggingFace:
    class Wrapped(nn.Module):
        """A model with the outputs of Hugging Face."""

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, labels=None):
            assert labels is None, "Trainer keeps the labels for compute_loss_func"
            return {"logits": self.net(x)}

    def trainer(self, net, objective, X, y, folder, **settings):
        from transformers import Trainer, TrainingArguments

        from catchment.adapters.huggingface import compute_loss_func

        class InOrder(Trainer):
            def _get_train_sampler(self, *arguments):
                return None

        arguments = TrainingArguments(
            str(folder), num_train_epochs=1, learning_rate=0.1, lr_scheduler_type="constant", optim="sgd",
            max_grad_norm=0, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=1,
            label_names=["labels"], **settings,
        )  # fmt: skip
        rows = [{"x": x, "labels": label} for x, label in zip(X, y, strict=True)]
        model = self.Wrapped(copy.deepcopy(net))
        return InOrder(
            model, arguments, train_dataset=rows, eval_dataset=rows, compute_loss_func=compute_loss_func(objective)
        )

    def test_trains_as_a_plain_loop(self, net, data, tmp_path):
        objective = ct.DrainageLoss(0.5)
        trainer = self.trainer(net, objective, *data, tmp_path, per_device_train_batch_size=32)
        trainer.train()
        assert_same_weights(trainer.model.net, trained_by_hand(net, objective, *data))

    def test_accumulated_gradients_are_those_of_the_whole_batch(self, net, data, tmp_path):
        """Trainer leaves the division to the loss function: a mean would be 4 times too large."""
        X, y = data
        y = torch.where(torch.arange(96) % 5 == 0, -100, y)  # uneven numbers of labels in the parts of a batch
        objective = ct.DrainageLoss(0.5)
        settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
        trainer = self.trainer(net, objective, X, y, tmp_path, **settings)
        trainer.train()
        assert_same_weights(trainer.model.net, trained_by_hand(net, objective, X, y))

    def test_evaluation_reports_the_mean_loss(self, net, data, tmp_path):
        objective = ct.DrainageLoss(0.5)
        trainer = self.trainer(net, objective, *data, tmp_path, per_device_eval_batch_size=48)
        expected = objective(net(data[0]), data[1]).item()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


class TestLightning:
    def fitted(self, net, objective, X, y, folder):
        from lightning import Trainer
        from torch.utils.data import DataLoader, TensorDataset

        from catchment.adapters.lightning import ObjectiveModule

        module = ObjectiveModule(copy.deepcopy(net), objective, partial(torch.optim.SGD, lr=0.1))
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        loader = DataLoader(TensorDataset(X, y), batch_size=32)
        trainer.fit(module, loader, loader)
        return module, trainer

    def test_trains_as_a_plain_loop(self, net, data, tmp_path):
        objective = ct.DrainageLoss(0.5)
        module, trainer = self.fitted(net, objective, *data, tmp_path)
        by_hand = trained_by_hand(net, objective, *data)
        assert_same_weights(module.net, by_hand)
        expected = ct.metrics.accuracy(objective.probabilities(by_hand(data[0]).detach()), data[1])
        assert trainer.callback_metrics["validation_accuracy"].item() == pytest.approx(expected)


class TestSkorch:
    def classifier(self, net, **settings):
        from catchment.adapters.skorch import ObjectiveClassifier

        given = {
            "criterion": ct.DrainageLoss(0.5),
            "lr": 0.1,
            "batch_size": 32,
            "max_epochs": 1,
            "verbose": 0,
            "train_split": None,
            "device": "cpu",
        }
        return ObjectiveClassifier(copy.deepcopy(net), **{**given, **settings})

    def test_trains_as_a_plain_loop(self, net, data):
        X, y = data
        fitted = self.classifier(net).fit(X.numpy(), y.numpy())
        assert_same_weights(fitted.module_, trained_by_hand(net, ct.DrainageLoss(0.5), X, y))

    def test_reads_the_outputs_as_the_objective_does(self, net, data):
        X, y = data
        fitted = self.classifier(net, max_epochs=20, lr=0.5).fit(X.numpy(), y.numpy())
        logits = fitted.module_(X).detach()
        np.testing.assert_allclose(fitted.predict_proba(X.numpy()), ct.closed_probabilities(logits), atol=1e-6)
        np.testing.assert_allclose(fitted.unknown_score(X.numpy()), ct.open_probabilities(logits)[:, -1], atol=1e-6)
        assert fitted.score(X.numpy(), y.numpy()) > 0.95

    def test_grid_search(self, net, data):
        from sklearn.model_selection import GridSearchCV

        X, y = (part.numpy() for part in data)
        search = GridSearchCV(self.classifier(net), {"lr": [1e-6, 0.5], "max_epochs": [10]}, cv=2, error_score="raise")
        assert search.fit(X, y).best_params_["lr"] == 0.5

    def test_an_objective_that_needs_more(self, net, data):
        class Remembers(ct.CrossEntropy):
            needs = ("index",)

        with pytest.raises(ValueError, match="needs index"):
            self.classifier(net, criterion=Remembers()).fit(*(part.numpy() for part in data))


class TestTimm:
    def task(self, net, objective):
        from catchment.adapters.timm import ObjectiveTask

        return ObjectiveTask(copy.deepcopy(net), objective, device=torch.device("cpu"), verbose=False)

    def test_trains_as_a_plain_loop(self, net, data):
        X, y = data
        task = self.task(net, ct.DrainageLoss(0.5))
        optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
        for rows in torch.arange(96).split(32):
            optimizer.zero_grad()
            task(X[rows], y[rows])["loss"].backward()
            optimizer.step()
        assert_same_weights(task.trainable_module, trained_by_hand(net, ct.DrainageLoss(0.5), X, y))

    def test_evaluates_the_classes_without_drainage(self, net, data):
        X, y = data
        with torch.no_grad():
            net[2].bias[3] = 20.0  # drainage above every class
        task = self.task(net, ct.DrainageLoss(0.5))
        evaluator = task.create_evaluator()
        closed = ct.closed_probabilities(net(X).detach())
        for rows in torch.arange(96).split(40):
            evaluator.update(net(X[rows]), y[rows])
        found = evaluator.compute()
        assert found["top1"] == pytest.approx(100 * ct.metrics.accuracy(closed, y))
        assert found["loss"] == pytest.approx(ct.metrics.nll(closed, y), rel=1e-5)

    def test_mixed_up_labels(self, net, data):
        from timm.data import Mixup

        X, y = data
        images = X.reshape(96, 1, 2, 2)
        mixed, labels = Mixup(mixup_alpha=1.0, num_classes=3, label_smoothing=0.0)(images, y)
        objective = ct.DrainageLoss(0.5)
        task = self.task(nn.Sequential(nn.Flatten(), net), objective)
        assert labels.shape == (96, 3)
        torch.testing.assert_close(task(mixed, labels)["loss"], objective(net(mixed.flatten(1)), labels))


def test_no_framework_is_imported_unless_it_is_asked_for():
    import subprocess
    import sys

    script = "import sys, catchment, catchment.adapters, catchment.adapters.huggingface\n"
    script += "assert not {'lightning', 'skorch', 'transformers', 'timm'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
