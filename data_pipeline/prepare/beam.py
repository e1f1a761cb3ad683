"""The same stages on many machines, by Apache Beam (extra `beam`).

Notes and rows go to the folder beside the output, which all machines have to see; what
is there already is not made again. TFDS writes the files of the set on the same runner.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from data_pipeline.prepare.run import Runner
from onetoall_jax.errors import UserError


def open_runner(options: str) -> tuple[Runner, tfds.download.DownloadConfig]:
    """How stages are run and files are written.

    Args:
      options: of Beam, as on a command line; `--runner=DirectRunner` is this machine.
    Raises:
      UserError: Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import (
            PipelineOptions,
            StandardOptions,
        )
    except ImportError as error:
        raise UserError(
            "Many machines need Apache Beam: pip install onetoall-jax[beam]."
        ) from error
    told = PipelineOptions(options.split(), save_main_session=False)
    name = told.view_as(StandardOptions).runner or "DirectRunner"
    writing = tfds.download.DownloadConfig(beam_runner=name, beam_options=told)
    return functools.partial(_run, apache_beam, told), writing


def _run(
    beam: Any, options: Any, function: Callable, pieces: Sequence, lost: Any, name: str
) -> list:
    """A stage: made anywhere, then looked up here."""
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | f"{name}: list" >> beam.Create(list(pieces))
            | f"{name}: spread" >> beam.Reshuffle()
            | f"{name}: make" >> beam.Map(function)
            | f"{name}: count" >> beam.combiners.Count.Globally()
        )
    return [function(piece) for piece in tqdm(pieces, name, mininterval=2)]
