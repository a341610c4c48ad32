"""Run folders -> tidy tables -> statistics -> tables and figures for papers; reads records and never loads torch."""
