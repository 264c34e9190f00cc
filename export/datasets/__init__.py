"""Data sets: a folder of class folders, a CSV, or a CUB-200-2011 folder, as a list of samples."""

from foldcam.export.datasets.csv_files import URL as URL
from foldcam.export.datasets.csv_files import BoxMeaning as BoxMeaning
from foldcam.export.datasets.labels import SINGLETON_POLICIES as SINGLETON_POLICIES
from foldcam.export.datasets.labels import SingletonPolicy as SingletonPolicy
from foldcam.export.datasets.labels import handle_singletons as handle_singletons
from foldcam.export.datasets.loading import load_dataset as load_dataset
from foldcam.export.datasets.loading import training_data as training_data
from foldcam.export.datasets.samples import SPLITS as SPLITS
from foldcam.export.datasets.samples import Box as Box
from foldcam.export.datasets.samples import Dataset as Dataset
from foldcam.export.datasets.samples import Sample as Sample
from foldcam.export.datasets.samples import SkippedFile as SkippedFile
from foldcam.export.datasets.samples import Split as Split
