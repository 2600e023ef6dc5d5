"""So few measurements that a real engine is measured in seconds."""

from repertory.profiler.plan import Points

__all__ = ["FEW"]

FEW = Points(
    lengths=(50,),
    shares_percent=(0, 50, 100),
    interruptions=(200,),
    batches=((1, 64), (2, 64)),
    kv_tokens=(256,),
    contexts=((1, 256),),
    resizes=((256, 512),),
)
