// The LSTM of one instruction set against its equations in double precision, on buffers that end
// where the tensors end; see band.cpp.
#include TEST_UNIT

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace pkernels;

namespace {

using Numbers = std::vector<float>;

std::mt19937 random_bits(7);

Numbers normal(int64_t n, double scale) {
  std::normal_distribution<float> draw;
  Numbers x(n);
  for (float& value : x) value = scale * draw(random_bits);
  return x;
}

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }
double clip_of(double x, double bound) { return std::fmin(std::fmax(x, -bound), bound); }

struct Sizes {
  const char* name;
  int64_t rows, steps, cells, width;
  bool reverse;
  std::vector<int64_t> lengths;  // falling
};

// The largest difference of the outputs from the equations; the backward runs too.
double check(const Kernels& kernels, const Sizes& s) {
  const int64_t B = s.rows, S = s.steps, C = s.cells, P = s.width;
  const Numbers x = normal(B * S * 4 * C, 1), u = normal(4 * C * P, 0.2), p = normal(P * C, 0.2);
  const Numbers h0 = normal(B * P, 1), c0 = normal(B * C, 1), dout = normal(B * S * P, 1);
  Numbers panels(4 * C * P), columns(C * P), groups(P * C);
  for (int64_t k = 0; k < P; ++k) {
    for (int64_t j = 0; j < C; ++j) {
      columns[j * P + k] = p[k * C + j];
      const int64_t group = j / lstm_group * lstm_group, n = C - group < lstm_group ? C - group : lstm_group;
      groups[group * P + k * n + j - group] = p[k * C + j];
      for (int64_t gate = 0; gate < 4; ++gate) {
        panels[((j / lstm_lanes * P + k) * 4 + gate) * lstm_lanes + j % lstm_lanes] = u[(gate * C + j) * P + k];
      }
    }
  }
  Numbers out(B * S * P), gates(B * S * 4 * C), memory(B * S * C), h = h0, c = c0;
  std::vector<int64_t> order(B);
  for (int64_t b = 0; b < B; ++b) order[b] = B - 1 - b;
  Lstm f;
  f.steps = S, f.cells = C, f.width = P, f.reverse = s.reverse, f.cell_clip = 0.8f, f.projection_clip = 0.6f;
  f.order = order.data(), f.lengths = s.lengths.data(), f.recurrent = panels.data(), f.projection = columns.data();
  f.x = x.data(), f.out = out.data(), f.gates = gates.data(), f.memory = memory.data(), f.h = h.data(), f.c = c.data();
  Numbers scratch(lstm_scratch(f, B));
  kernels.lstm_forward(f, 0, B, scratch.data());

  double worst = 0;
  for (int64_t r = 0; r < B; ++r) {
    const int64_t b = order[r];
    std::vector<double> state(h0.begin() + b * P, h0.begin() + (b + 1) * P), m(C);
    std::vector<double> cell(c0.begin() + b * C, c0.begin() + (b + 1) * C);
    for (int64_t n = 0; n < s.lengths[r]; ++n) {
      const int64_t at = b * S + (s.reverse ? s.lengths[r] - 1 - n : n);
      for (int64_t j = 0; j < C; ++j) {
        double z[4];
        for (int64_t gate = 0; gate < 4; ++gate) {
          z[gate] = x[(at * 4 + gate) * C + j];
          for (int64_t k = 0; k < P; ++k) z[gate] += u[(gate * C + j) * P + k] * state[k];
        }
        cell[j] = clip_of(sigmoid_of(z[1]) * cell[j] + sigmoid_of(z[0]) * std::tanh(z[2]), 0.8f);
        m[j] = sigmoid_of(z[3]) * std::tanh(cell[j]);
      }
      for (int64_t k = 0; k < P; ++k) {
        state[k] = 0;
        for (int64_t j = 0; j < C; ++j) state[k] += p[k * C + j] * m[j];
        state[k] = clip_of(state[k], 0.6f);
        worst = std::fmax(worst, std::fabs(state[k] - out[at * P + k]));
      }
    }
    for (int64_t k = 0; k < P; ++k) worst = std::fmax(worst, std::fabs(state[k] - h[b * P + k]));
  }

  Numbers dx(B * S * 4 * C), dstate(B * S * P), hidden(B * S * C);
  f.recurrent = u.data(), f.projection = groups.data(), f.dout = dout.data(), f.first = c0.data();
  f.dx = dx.data(), f.dstate = dstate.data(), f.hidden = hidden.data();
  kernels.lstm_backward(f, 0, B, scratch.data());
  for (const float value : dx) worst = std::isfinite(value) ? worst : INFINITY;
  return worst;
}

}  // namespace

int main() {
  const Sizes cases[] = {
      {"one row", 1, 2, 16, 16, false, {2}},
      {"ragged", 5, 4, 80, 32, false, {4, 3, 3, 1, 0}},
      {"ragged, back", 7, 3, 144, 48, true, {3, 3, 2, 2, 1, 1, 0}},
      {"nothing", 2, 3, 16, 16, true, {0, 0}},
  };
  int failed = 0;
  for (const Sizes& s : cases) {
    const double error = check(*TEST_KERNELS(), s);
    failed += !(error < 1e-4);
    std::printf("lstm, %s: %.2g %s\n", s.name, error, error < 1e-4 ? "ok" : "FAILED");
  }
  return failed;
}
