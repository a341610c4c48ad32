"""The pages over all studies: the findings and the figures.

They read what the studies have rendered and import no study.
"""
