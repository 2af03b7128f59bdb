"""A search in a process of its own, to be killed: see tests/search/test_resume.py.

    python search_to_kill.py METHOD MODEL JOURNAL PLACE NUMBER

kills itself, as by kill -9, at the call of that number of one place that searches pass.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import searchable
import tf_keras

import tfmix
from tfmix.fakequant.evaluate import ModelEvaluator
from tfmix.policy.search import journal as journals

EPISODES = 6


class Batches(tf_keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


#: Place -> the function that is called there.
PLACES = {
    "episode": (Batches, "on_train_batch_end"),
    "journal": (journals.Journal, "_write"),
    "sensitivity": (ModelEvaluator, "_value"),
}


def search(method: str, model: str, journal: str) -> tfmix.SearchResult:
    """ "ilp" in this process, or another method within fit."""
    qmodel = tf_keras.models.load_model(model, compile=False)
    if method == "ilp":
        return tfmix.search_policy(
            qmodel,
            searchable.budget(),
            method,
            validation_data=searchable.data(),
            journal=journal,
            verbose=0,
        )
    training, validation = tfmix.proxy(searchable.data(), 128, 64, batch_size=32)
    callback = tfmix.PolicySearch(
        method, searchable.budget(), journal=journal, verbose=0, episodes=EPISODES, warm_up=3
    )
    qmodel.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    qmodel.fit(
        training,
        epochs=EPISODES,
        validation_data=validation,
        callbacks=[callback, Batches()],
        verbose=0,
    )
    return callback.result


def die_at(place: str, number: int) -> None:
    owner, name = PLACES[place]
    function, calls = getattr(owner, name), []

    def call(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            if place == "journal":  # a part of the line reaches the disk
                journal, record = args
                journal._file.write(journals._line(record)[:30])
                journal._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)

    setattr(owner, name, call)


if __name__ == "__main__":
    die_at(sys.argv[4], int(sys.argv[5]))
    search(*sys.argv[1:4])
