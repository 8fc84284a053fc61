"""Every error a user can meet, as one tree.

* UnweaveError
  + ModelError            a model that cannot be found, read or used
    x UnsupportedModel    a model whose computation is not frozen exactly
  + TranscoderError       a dictionary that cannot be found or read
    x TranscoderMismatch  a dictionary made for another model
  + PromptError           an empty prompt, one too long, a token id out of range
  + TargetError           a target that is several tokens, a position outside the prompt
  + OptionError           a limit or threshold outside its range
  + InterventionError     a feature that does not exist, a change that cannot be made
    x ClaimError          a claims file that cannot be read, or a claim that cannot be checked
    x StudyError          a study file that cannot be read, or a step of a study that cannot be run
  + InexactAttribution    the local replacement model does not reproduce the model
  + TextError             text that cannot be read, or too little of it
  + TrainingError         a training that cannot go on
  + GraphError            a graph file that cannot be read or understood, an unknown node
  + FileError             a file that cannot be written, or feature pages that cannot be read
  + MissingPackage        a package of one of our extras that is not installed
  + EndpointError         a service that labels features and cannot be reached

A message says what failed, on which value, and what to do, in one line.
"""


class UnweaveError(Exception):
    """Base of all errors that a user's input can cause."""


class ModelError(UnweaveError):
    """A model that cannot be found, read or used."""


class UnsupportedModel(ModelError):
    """A model whose computation `unweave` does not freeze exactly."""


class TranscoderError(UnweaveError):
    """A dictionary that cannot be found or read."""


class TranscoderMismatch(TranscoderError):
    """A dictionary made for another model."""


class PromptError(UnweaveError):
    """A prompt that cannot be run."""


class TargetError(UnweaveError):
    """An attribution target that does not exist."""


class OptionError(UnweaveError):
    """A limit, threshold or mode outside its range."""


class InterventionError(UnweaveError):
    """A feature that does not exist, or a change that cannot be made."""


class ClaimError(InterventionError):
    """A claims file that cannot be read, or a claim that cannot be checked."""


class StudyError(InterventionError):
    """A study file that cannot be read, or a step of a study that cannot be run."""


class InexactAttribution(UnweaveError):
    """The local replacement model does not reproduce the model."""


class TextError(UnweaveError):
    """Text that cannot be read, or too little of it."""


class TrainingError(UnweaveError):
    """A training that cannot start or go on: another config, another process, a loss that is not finite."""


class GraphError(UnweaveError):
    """A graph file that cannot be read or understood, or a node it does not have."""


class FileError(UnweaveError):
    """A file that cannot be written."""


class MissingPackage(UnweaveError):
    """A package that is needed and not installed; the message names the command that installs it."""


class EndpointError(UnweaveError):
    """A service for labels that cannot be reached, refuses, or answers something else."""
