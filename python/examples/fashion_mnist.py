import gzip, sys, torch, rigl
from torch import nn

def read(part, name, header):  # Fashion-MNIST's files, as they come
    data = gzip.open(f"{sys.argv[1]}/{part}-{name}-ubyte.gz").read()
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header)

def split(part):
    return read(part, "images-idx3", 16).view(-1, 784) / 255, read(part, "labels-idx1", 8).long()

(x, y), (x_test, y_test) = split("train"), split("t10k")
model = nn.Sequential(nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 300), nn.ReLU(), nn.Linear(300, 10))
rigl.sparsify(model, density=0.1)
steps = 10 * (len(x) // 128)
optimizer = torch.optim.Adam(model.parameters())
rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
topology = rigl.RigL(model, optimizer, total_steps=steps)
for epoch in range(10):
    for batch in torch.randperm(len(x)).split(128)[: len(x) // 128]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step(), rates.step(), topology.step()
    print(f"epoch {epoch + 1}: accuracy {(model(x_test).argmax(1) == y_test).float().mean():.4f}")
