"""Data sets: a folder of class folders, a CSV, or a CUB-200-2011 folder, as a list of samples."""

from export.datasets.csv_files import URL as URL
from export.datasets.csv_files import BoxMeaning as BoxMeaning
from export.datasets.loading import load_dataset as load_dataset
from export.datasets.loading import training_data as training_data
from export.datasets.samples import SPLITS as SPLITS
from export.datasets.samples import Box as Box
from export.datasets.samples import Dataset as Dataset
from export.datasets.samples import Sample as Sample
from export.datasets.samples import SkippedFile as SkippedFile
from export.datasets.samples import Split as Split
from export.datasets.singletons import SINGLETON_POLICIES as SINGLETON_POLICIES
from export.datasets.singletons import SingletonPolicy as SingletonPolicy
from export.datasets.singletons import handle_singletons as handle_singletons
