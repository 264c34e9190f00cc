"""HTML pages in one file, which ask no host for anything: reports to look at and to send."""
