"""From folders of videos and images to shards: analyse, filter, write, report.

In the order of a build: build.py (the phases), sources.py (keys, captions, classes), analysis.py (one file),
selection.py (filters and duplicates), writing.py (shards), report.py; options.py and build_folder.py (state
of an interrupted build) serve all. indexing.py indexes shards from elsewhere and describes shards.
"""
