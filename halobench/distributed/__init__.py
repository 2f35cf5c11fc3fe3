"""Halo attention on one image that several ranks hold, each a rectangle of it: only halos travel between them."""

from halobench.distributed.layer import HaloAttention
from halobench.distributed.lost import RankLost
from halobench.distributed.network import shard_network
from halobench.distributed.sharded import attend
from halobench.distributed.shards import Shards, shard_map

__all__ = ["HaloAttention", "RankLost", "Shards", "attend", "shard_map", "shard_network"]
