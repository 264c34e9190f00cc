"""Is the heat worth something? Labelled images, any network, no boxes: hide what is hot, and look.

Definitions
-----------
*Contrast* of a picture: `e . v`, where `v` is the mean of the training embeddings of its own
label minus the mean of all others, all of norm 1. *Label*: that of the nearest training row.
*Margin*: the similarity to the nearest row of the own label minus that to the nearest row of
another.

*Damage*: the hottest 10, 20 or 30 % of a map's cells are hidden, and contrast, label and margin
are taken again. Two kinds: the cells are blurred *in the picture*, and the network runs again
(`damage.blurred`); the cells *of the feature map* are replaced by those of the mean training
picture, and the rest of the network runs again (`damage.replaced`). Labels count as lost only
where they are right before.

*Controls*: a map has a shape (compact, in the middle, along edges), and blurring costs something
wherever it is. So each loss is reported as it is, minus what the map of *another* picture of
another label costs, by the same method, and minus what the picture's own map costs after a cyclic
*shift* by half its height and width. Only the differences say that the map knows this picture;
their intervals are paired bootstraps over pictures.

Equal cells are ranked in one drawn order, the same for all maps, so that equal maps cost equally.
A blank map (nothing positive in a map of evidence, one value everywhere in any other) names no
cell: it is counted, and ranked at random, for each picture differently.
"""
