"""`vhostuser bench`: how fast is a back-end, ours or anybody's, on this machine?

- `model`: what a case is, what one measurement of it found, and the JSON of a whole run
- `plan`: from what was asked for to the cases, and in which order they are measured
- `backend`: the server of ours that a case is measured on
- `measure`: one case, once; `ndr`: the search for the greatest rate without loss
- `table`, `report`, `plots`, `compare`: the results as text, as Markdown, as pictures, beside other results

Frames are counted by the driver here, never by the side under test. Runs go round the cases, so that what the
machine does meanwhile meets all of them.
"""
