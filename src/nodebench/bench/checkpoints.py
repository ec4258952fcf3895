import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    url: str

    def remove(self):
        shutil.rmtree(self.url, ignore_errors=True)


def remove_folder(url):
    shutil.rmtree(url, ignore_errors=True)
