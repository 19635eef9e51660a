"""Large read-only values for all tasks, one copy on each node.

::

    client's rank           scheduler            a worker of each      other workers
                                                 other node            there
    -------------           ---------            ----------------      -------------
    writes the value into
    a file in memory
    publish ------------->  orders one copy
                            for each node -----> find: from whom
                                                 fetches chunks, and
                                                 passes them on
                            <------- have ------ holds a copy
                            -------- where on this node -----------> map the file
    handle  <-------------  <-------------- mapped -----------------
    free ---------------->  release -----------> drop it -----------> drop it

A process that was not told, such as a client or a worker whose node got no copy, finds one when
it first asks for the value.

The nodes make up a tree: each gets its chunks from another one, and passes them on to two. Files
have no names, and processes of a node open them by the descriptor of one that has them open. So
nothing is left of them when these processes end, however that comes.
"""
