"""Handwritten digits with a small convolutional network: one script for one process and for a cluster.

    python examples/digits.py                              one process, local store
    shoal run -n 2 -s 2 examples/digits.py                 2 workers, 2 servers, synchronous
    shoal run -n 2 -s 2 --mode async examples/digits.py    ... asynchronous

The data are the 1797 8x8 images of the UCI digits set, which come with shoal; a fifth is held out.
"""

import argparse

import shoal
from shoal import nn


def network() -> nn.HybridBlock:
    """Two convolutions, two dense layers: 26 thousand weights."""
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(16, kernel_size=3, padding=1, activation="relu"),
        nn.Conv2D(32, kernel_size=3, padding=1, activation="relu"),
        nn.MaxPool2D(pool_size=2, strides=2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Dense(64, activation="relu"),
        nn.Dense(10),
    )
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--global-batch", type=int, default=32, help="samples of one round, over all workers")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--compression", help="of gradients, such as fp16, 2bit:threshold=0.01 or topk:ratio=0.05")
    parser.add_argument("--no-hybridize", action="store_true", help="run the model imperatively")
    args = parser.parse_args()

    train, test = shoal.data.digits("train"), shoal.data.digits("test")
    batch = args.global_batch // shoal.num_workers()
    train_data = shoal.data.DataLoader(train, batch, shuffle=True)
    test_data = shoal.data.DataLoader(test, 355)  # not shuffled: every worker would see all of it

    net = network()
    net.initialize(shoal.init.Xavier())
    if not args.no_hybridize:
        net.hybridize()
    trainer = shoal.Trainer(
        net.collect_params(),
        "sgd",
        {"learning_rate": args.lr, "momentum": args.momentum},
        compression_params=args.compression,
    )
    history = shoal.fit(
        net,
        train_data,
        loss=nn.SoftmaxCrossEntropyLoss(),
        trainer=trainer,
        epochs=args.epochs,
        val_data=test_data,
    )
    if history.final:
        print(f"held-out accuracy {history.final['accuracy']:.4f} after {args.epochs} epochs")


if __name__ == "__main__":
    main()
