"""A notebook's session: it connects to a cluster that runs, and leaves it running.

    mpirun -n 8 mpidask --security --scheduler-file scheduler.json &
    python examples/notebook.py scheduler.json

Each part is a cell. The cluster can be one of the command's, as here, or a batch job's that
was given ``scheduler_file=``. More workers may join it at any time.
"""

# %% Connect. The file carries the address and, for a secured cluster, the credentials.
import sys

from distributed import Client

import mpidask

scheduler_file = sys.argv[1] if len(sys.argv) > 1 else "scheduler.json"
client = Client(**mpidask.connection(scheduler_file))
client.wait_for_workers(1)

# %% Work.
futures = client.map(lambda number: number**2, range(100))
print("The sum of the first 100 squares is", client.submit(sum, futures).result())

# %% See who is there.
print("Threads by worker:", sorted(client.nthreads().values()))

# %% Leave. client.shutdown() instead would end the cluster for everyone.
client.close()
