"""A multilayer perceptron with the loop written out: record, backward, step.

python examples/mlp.py
shoal run -n 2 -s 1 examples/mlp.py
"""

import shoal
from shoal import autograd, nn

net = nn.HybridSequential()
net.add(nn.Dense(64, activation="relu"), nn.Dense(32, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "adam", {"learning_rate": 0.003})

train = shoal.data.DataLoader(shoal.data.digits("train"), 32, shuffle=True)
test = shoal.data.DataLoader(shoal.data.digits("test"), 355)

for epoch in range(15):
    for images, labels in train:
        with autograd.record():
            loss = loss_of(net(images), labels)
        loss.backward()
        trainer.step(len(images))
    accuracy = shoal.evaluate(net, test)["accuracy"]
    shoal.report(accuracy=accuracy)
    if shoal.rank() == 0:
        print(f"epoch {epoch + 1:2d}  loss {float(loss.mean()):.4f}  held-out accuracy {accuracy:.4f}")
