"""From folders of videos and images to shards: look at every file, keep what is good, report the rest.

In the order of a build:

build.py         the phases, one after the other
build_folder.py  what a build keeps to go on after an interruption
sources.py       the files: keys, captions, classes
workers.py       processes that survive files which stop or kill them
analysis.py      one file: facts and shots
looking.py       what is measured on small frames: cuts, motion, bars, hashes
filters.py       the limits
duplicates.py    what looks the same, among very many
choice.py        what is kept, and why the rest is not
writing.py       samples into shards
encoding.py      smaller pictures, more key frames, single shots
report.py        report.json and report.html
page.py          the page
thumbnails.py    its pictures

indexing.py      the index of shards from elsewhere
overview.py      what shards hold
console.py       bar and tables of the command line
"""
