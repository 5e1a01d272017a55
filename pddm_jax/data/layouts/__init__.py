"""The layouts that data sets come in on disk, a file each."""
