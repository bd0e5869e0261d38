"""A Ray cluster of two machines that are none, for tests: `python tests/ray_cluster.py` prints its address.

Each line on stdin is an order: `remove` takes the second machine away, as a power cut would; the end of
stdin ends all. Both run on this machine, with a CPU each.
"""

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print(cluster.address, cluster.head_node.get_session_dir_path(), flush=True)
    for order in sys.stdin:
        assert order.strip() == "remove", order
        cluster.remove_node(second, allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()
