"""Moved to the room data/."""

from ..data.cuts import cut_newest as cut_newest
from ..data.cuts import cut_whole_texts as cut_whole_texts
from ..data.load import TextData as TextData
from ..data.load import load_text_data as load_text_data
from ..data.load import read_texts as read_texts
