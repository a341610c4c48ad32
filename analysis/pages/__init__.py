"""The pages over all studies: the findings and the gallery of figures.

They read what the studies have rendered and import no study.
"""
