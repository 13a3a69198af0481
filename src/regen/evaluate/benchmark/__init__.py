"""Many models on one frozen list of clips, resumable and shared by any number of processes.

contest.py        what is asked for, what is done, and one process's share of it
clip_list.py      the clips, frozen with their hashes
contestants.py    models and folders of finished reconstructions
measuring.py      one clip through one contestant
report_folder.py  the folder of results: whole files, and locks
workers.py        several processes, and what is made of the results at the end
summary.py        means over clips, and the Fréchet distance over all of them
scoreboard.py     progress and the table of the command line
"""
