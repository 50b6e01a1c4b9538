"""`openseg serve`: a local page that shows what the methods do with a picture and words.

What knows gradio: `page`, `server`. What does not: `limits` and `examples` (what comes in),
`models` and `controls` (what may be chosen), `work` (the segmentation), `insides` (what went on
inside), `coco`, `downloads` and `html`, `viewer`, `inside_html` (what goes out), `guard` (what the
server answers at all).
"""
