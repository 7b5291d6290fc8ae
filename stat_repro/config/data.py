"""Data sets and what is measured on them."""

from dataclasses import dataclass

from omegaconf import MISSING

from stat_repro.config.checks import ConfigError, Section, setting

TASKS = ("classification", "regression", "similarity", "question_answering", "language_modeling")
PARTS = ("train", "validation", "test")
BOS = ("none", "first", "window")
# Tasks that read a setting.
_LABELLED, _QUESTIONS, _TEXT = TASKS[:3], TASKS[3:4], TASKS[4:]


@dataclass
class AnswerConfig(Section, name="dataset.answers"):
    """How answers are read off the outputs of a question answering head.

    Attributes:
        stride: Tokens that neighbouring windows of a long context share.
        n_best: Start and end positions considered per window, and answers kept per question.
        max_answer_length: Tokens of an answer at most.
        null_threshold: SQuAD 2.0: no answer is given where the score of "no answer" exceeds the
            best answer's by more than this.
    """

    stride: int = setting(128, low=0)
    n_best: int = setting(20, low=1)
    max_answer_length: int = setting(30, low=1)
    null_threshold: float = 0.0


@dataclass
class DatasetConfig(Section, name="dataset"):
    """What the model is calibrated and evaluated on.

    Attributes:
        name: Label in records and tables.
        task: One of `TASKS`.
        source: Kind of source: `asset:<name>` for packaged data, `table` or `text` for files of
            the user, `glue:<task>`, `squad` or `corpus:<name>` for the benchmarks.
        path: Benchmarks: a name on the Hugging Face hub, or a local file or folder.
        revision: Revision on the hub; ignored for local data.
        train: File of the calibration (and fine-tuning) part: for files of the user, for corpora,
            and, with `path` null, for questions, where it may be a folder of files.
        validation: File of the validation part, may be null.
        test: File of the evaluated part.
        held_out: For data given as one file: the share that is evaluated, always the same part; the
            rest is the training part. From questions whole articles are held out, from a table
            random rows, from running text the end.
        calibration_split: Part that calibration examples are drawn from.
        evaluation_split: Default of `evaluation.split`.
        calibration_corpus: Corpora and packaged text: another corpus, or `nyt_editorials`, to
            calibrate on; null for the evaluated one.
        calibration_path: As `path`, for `calibration_corpus`; packaged text needs none, and a sweep
            over both may give it.
        text_column: Column of the (first) sentence.
        text_pair_column: Column of the second sentence; null for single sentences.
        label_column: Column of the label: class index or name, or a number for regression and
            similarity.
        max_length: Tokens after which a sentence is cut; question answering: tokens per window.
        window: Tokens per window (language modelling).
        usual_length: Default of `max_length` or `window`, for files of the user.
        at_most: Take the model's positions instead of `max_length` and `window` where these are
            fewer, and a third of them as default stride; always so where they are `usual_length`.
        join: String between documents before tokenising (language modelling).
        bos: Language modelling: `none`, `first` (special tokens as the tokenizer adds them to the
            whole text, the way pruning papers report) or `window` (BOS in front of every window,
            part of its length).
        answers: Question answering: how answers are read off.
        calibration_examples: Default number of calibration sentences or windows.
        calibration_batch_size: Default number of them per forward pass.
    """

    name: str = setting(MISSING, file_name=True)
    task: str = setting(MISSING, choices=TASKS)
    source: str = MISSING
    path: str | None = setting(None, later=True)
    revision: str | None = setting(None, later=True)
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    held_out: float | None = setting(None, above=0, below=1, later=True)
    calibration_split: str = setting("train", choices=PARTS, later=True)
    evaluation_split: str = setting("test", choices=PARTS[1:], neutral=True, later=True)
    calibration_corpus: str | None = setting(None, later=True, tasks=_TEXT)
    calibration_path: str | None = setting(None, later=True, tasks=_TEXT)
    text_column: str = setting("text", tasks=_LABELLED + _TEXT)
    text_pair_column: str | None = setting(None, tasks=_LABELLED)
    label_column: str = setting("label", tasks=_LABELLED)
    max_length: int = setting(128, low=2, tasks=_LABELLED + _QUESTIONS)
    window: int = setting(512, low=2, tasks=_TEXT)
    usual_length: int | None = setting(None, low=2, neutral=True)
    at_most: bool = setting(False, neutral=True)
    join: str = setting("\n", tasks=_TEXT)
    bos: str = setting("none", choices=BOS, later=True, tasks=_TEXT)
    answers: AnswerConfig = setting(AnswerConfig, later=True, tasks=_QUESTIONS)
    calibration_examples: int = setting(512, low=1, neutral=True)
    calibration_batch_size: int = setting(32, neutral=True)


@dataclass
class ZeroShotConfig(Section, name="evaluation.zero_shot"):
    """Tasks of lm-eval for causal language models.

    Attributes:
        tasks: Names of its tasks; none by default.
        include: Folder with further task files (YAML), which may name local data; or
            `asset:zero_shot`, packaged data for the tasks of the pruning literature and LAMBADA.
        examples: Evaluate the first so many examples of each task; all if null.
        shots: Solved examples in front of each question.
    """

    tasks: list[str] = setting(list)
    include: str | None = None
    examples: int | None = setting(None, low=1)
    shots: int = setting(0, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks and (self.include, self.examples, self.shots) != (None, None, 0):
            raise ConfigError(
                "evaluation.zero_shot.tasks: expected names of tasks beside include, examples or "
                "shots; got none; choose evaluation=zero_shot, or such as [piqa]"
            )


@dataclass
class EvaluationConfig(Section, name="evaluation"):
    """What is measured on the dense and on the pruned model.

    Attributes:
        split: Part of the data set that is evaluated.
        max_examples: Evaluate the first so many examples or windows; all if null.
        batch_size: Examples per forward pass.
        keep_examples: Store the values of every example beside the record, for paired comparisons.
        zero_shot: Further tasks for causal language models.
    """

    split: str = setting("test", choices=PARTS[1:])
    max_examples: int | None = setting(None, low=1)
    batch_size: int = setting(64, low=1, neutral=True)
    keep_examples: bool = setting(True, neutral=True)
    zero_shot: ZeroShotConfig = setting(ZeroShotConfig, later=True)


@dataclass
class CostConfig(Section, name="cost"):
    """Measured cost of the dense and of the pruned model, side by side in one process.

    Attributes:
        enabled: Measure latency, throughput and memory; MACs, parameters and size always are.
        batch_sizes: Batches to time.
        sequence_length: Tokens per example; null for the mean length of the data set, rounded.
        warmup: Forward passes before the clock starts.
        repeats: Timed forward passes of each model, in turns.
    """

    enabled: bool = False
    batch_sizes: list[int] = setting(lambda: [1, 32], low=1)
    sequence_length: int | None = setting(None, low=1)
    warmup: int = setting(3, low=0)
    repeats: int = setting(20, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_sizes:
            raise ConfigError("cost.batch_sizes: expected at least one batch size; got none")
