// ps-lite behind five C functions, so that the same Python loop measures it as measures the others.
//
// The servers apply every push at once, as ps-lite's own default handler does: value += gradient, or with a learning
// rate value -= lr * gradient. Nobody waits for other workers.
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "ps/ps.h"

using ps::KVMeta;
using ps::KVPairs;
using ps::KVServer;
using ps::Key;
using ps::SArray;

namespace {

std::unordered_map<Key, SArray<float>> store;
float rate = 0;
ps::KVWorker<float>* client = nullptr;

void Apply(float* value, const float* gradient, size_t n) {
  if (rate > 0) {
    for (size_t i = 0; i < n; ++i) value[i] -= rate * gradient[i];
  } else {
    for (size_t i = 0; i < n; ++i) value[i] += gradient[i];
  }
}

void Push(const KVPairs<float>& in) {
  const float* at = in.vals.data();
  for (size_t i = 0; i < in.keys.size(); ++i) {
    const size_t n = in.lens[i];
    auto& value = store[in.keys[i]];
    if (value.empty()) value.resize(n, 0);
    Apply(value.data(), at, n);
    at += n;
  }
}

KVPairs<float> Pull(const KVPairs<float>& in) {
  KVPairs<float> out;
  out.keys = in.keys;
  if (in.keys.size() == 1) {  // uncopied
    out.vals = store[in.keys[0]];
    out.lens = SArray<int>({static_cast<int>(out.vals.size())});
    return out;
  }
  size_t total = 0;
  std::vector<int> lens;
  for (Key k : in.keys) {
    lens.push_back(store[k].size());
    total += store[k].size();
  }
  out.lens = SArray<int>(lens);
  out.vals.resize(total);
  float* to = out.vals.data();
  for (Key k : in.keys) {
    const auto& value = store[k];
    std::memcpy(to, value.data(), value.size() * sizeof(float));
    to += value.size();
  }
  return out;
}

void Handle(const KVMeta& meta, const KVPairs<float>& in, KVServer<float>* server) {
  if (meta.push) {
    Push(in);
    server->Response(meta);
  } else {
    server->Response(meta, Pull(in));
  }
}

// Keys to the servers that own them. Unlike ps-lite's own it lets values of different lengths be pulled together.
void Slice(const KVPairs<float>& all, const std::vector<ps::Range>& ranges, ps::KVWorker<float>::SlicedKVs* out) {
  out->resize(ranges.size());
  size_t key = 0, at = 0;
  for (size_t s = 0; s < ranges.size(); ++s) {
    const size_t first_key = key, first = at;
    for (; key < all.keys.size() && all.keys[key] < ranges[s].end(); ++key) at += all.lens.empty() ? 0 : all.lens[key];
    auto& part = (*out)[s];
    part.first = key > first_key;
    part.second.keys = all.keys.segment(first_key, key);
    if (!all.lens.empty()) {
      part.second.lens = all.lens.segment(first_key, key);
      part.second.vals = all.vals.segment(first, at);
    }
  }
}

}  // namespace

extern "C" {

// Join as the role that the environment names, with the servers' learning rate; 0 means that they sum.
void pslite_start(float lr) {
  rate = lr;
  ps::Start(0);
  if (ps::IsServer()) {
    auto* server = new KVServer<float>(0);
    server->set_request_handle(Handle);
    ps::RegisterExitCallback([server]() { delete server; });
  }
  if (ps::IsWorker()) {
    client = new ps::KVWorker<float>(0, 0);
    client->set_slicer(Slice);
  }
}

// The first key of a server's range.
uint64_t pslite_first_key(int server) { return ps::Postoffice::Get()->GetServerKeyRanges()[server].begin(); }

// Push and pull `n` keys, whose values lie one after another; one message a key, or one a server.
void pslite_cycle(int n, uint64_t* keys, int* lens, float* gradients, float* values, int batch) {
  size_t total = 0;
  for (int i = 0; i < n; ++i) total += lens[i];
  if (batch) {
    SArray<Key> k(keys, n);
    SArray<int> l(lens, n), got;
    SArray<float> g(gradients, total), v(values, total);
    client->Wait(client->ZPush(k, g, l));
    client->Wait(client->ZPull(k, &v, &got));
    return;
  }
  std::vector<int> stamps;
  std::vector<SArray<float>> outs(n);
  std::vector<SArray<int>> gots(n);
  size_t at = 0;
  for (int i = 0; i < n; ++i) {
    SArray<Key> k(keys + i, 1);
    SArray<int> l(lens + i, 1);
    SArray<float> g(gradients + at, lens[i]);
    outs[i] = SArray<float>(values + at, lens[i]);
    stamps.push_back(client->ZPush(k, g, l));
    stamps.push_back(client->ZPull(k, &outs[i], &gots[i]));  // after the push: one connection keeps the order
    at += lens[i];
  }
  for (int s : stamps) client->Wait(s);
}

void pslite_barrier() { ps::Postoffice::Get()->Barrier(0, ps::kWorkerGroup); }

void pslite_end() { ps::Finalize(0, true); }
}
