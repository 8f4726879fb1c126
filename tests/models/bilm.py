"""ELMo as its authors' code computes it, one word and one step at a time, on TensorFlow's variables."""

from __future__ import annotations

import torch
from torch import Tensor

from pkernels.models.elmo import Config
from pkernels.models.elmo_hdf5 import variables as variables_of

Variables = dict[str, Tensor]
State = tuple[Tensor, Tensor]


def draw(c: Config, dtype: torch.dtype, seed: int = 0) -> Variables:
    """Every variable filled with noise, large enough for clips to clip."""
    generator = torch.Generator().manual_seed(seed)
    total, width = sum(number for _, number in c.filters), c.projection_dim
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (c.n_characters - 1, c.char_dim)}
    for n, (size, number) in enumerate(c.filters):
        shapes |= {f"CNN/W_cnn_{n}": (1, size, c.char_dim, number), f"CNN/b_cnn_{n}": (number,)}
    for n in range(c.n_highway):
        for part in ("carry", "transform"):
            shapes |= {f"CNN_high_{n}/W_{part}": (total, total), f"CNN_high_{n}/b_{part}": (total,)}
    shapes |= {"CNN_proj/W_proj": (total, width), "CNN_proj/b_proj": (width,)}
    for way in range(2):
        for n in range(c.n_layers):
            cell = cell_name(way, n)
            shapes |= {
                f"{cell}/W_0": (2 * width, 4 * c.dim),
                f"{cell}/B": (4 * c.dim,),
                f"{cell}/W_P_0": (c.dim, width),
            }
    return {
        name: (0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }


def cell_name(way: int, layer: int) -> str:
    return f"RNN_{way}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"


def word(c: Config, v: Variables, ids: list[int]) -> Tensor:
    """One word out of the ids of its characters."""
    characters = v["char_embed"][torch.tensor(ids) - 1]
    act = {"relu": torch.relu, "tanh": torch.tanh}[c.activation]
    pieces = []
    for n, (size, _) in enumerate(c.filters):
        kernel = v[f"CNN/W_cnn_{n}"][0]
        places = [(characters[p : p + size, :, None] * kernel).sum((0, 1)) for p in range(len(ids) - size + 1)]
        pieces.append(act(torch.stack(places).amax(0) + v[f"CNN/b_cnn_{n}"]))
    x = torch.cat(pieces)
    for n in range(c.n_highway):
        carry = torch.sigmoid(x @ v[f"CNN_high_{n}/W_carry"] + v[f"CNN_high_{n}/b_carry"])
        new = torch.relu(x @ v[f"CNN_high_{n}/W_transform"] + v[f"CNN_high_{n}/b_transform"])
        x = carry * new + (1 - carry) * x
    return x @ v["CNN_proj/W_proj"] + v["CNN_proj/b_proj"]


def cell(c: Config, v: Variables, name: str, x: Tensor, state: State) -> State:
    """One step of one LSTM, as tf.nn.rnn_cell.LSTMCell takes it: gates i j f o, 1 added to f."""
    h, memory = state
    i, j, f, o = (torch.cat([x, h]) @ v[f"{name}/W_0"] + v[f"{name}/B"]).chunk(4)
    memory = torch.sigmoid(f + 1) * memory + torch.sigmoid(i) * torch.tanh(j)
    if c.cell_clip is not None:
        memory = memory.clamp(-c.cell_clip, c.cell_clip)
    h = (torch.sigmoid(o) * torch.tanh(memory)) @ v[f"{name}/W_P_0"]
    if c.proj_clip is not None:
        h = h.clamp(-c.proj_clip, c.proj_clip)
    return h, memory


def sentence(
    c: Config, v: Variables, words: list[str], states: dict[tuple[int, int], State]
) -> tuple[list[Tensor], dict[tuple[int, int], State]]:
    """Every layer's output between and with both marks, ``(len + 2, 2 P)``, and the states after it."""
    fill = [261] * (c.max_characters_per_token - 3)
    marks = ([259, 257, 260, *fill], [259, 258, 260, *fill])
    spelled = []
    for text in words:
        own = [byte + 1 for byte in text.encode()][: c.max_characters_per_token - 2]
        spelled.append(([259, *own, 260] + [261] * c.max_characters_per_token)[: c.max_characters_per_token])
    tokens = [word(c, v, ids) for ids in (marks[0], *spelled, marks[1])]
    layers, after = [torch.stack([torch.cat([x, x]) for x in tokens])], {}
    ways = [list(tokens), list(tokens)]
    for n in range(c.n_layers):
        for way in range(2):
            zeros = tokens[0].new_zeros(c.projection_dim), tokens[0].new_zeros(c.dim)
            state, found = states.get((way, n), zeros), {}
            for t in range(len(tokens)) if way == 0 else reversed(range(len(tokens))):
                state = cell(c, v, cell_name(way, n), ways[way][t], state)
                found[t] = state[0] + (ways[way][t] if n else 0)
            ways[way] = [found[t] for t in range(len(tokens))]
            after[way, n] = state
        layers.append(torch.stack([torch.cat(pair) for pair in zip(*ways, strict=True)]))
    return layers, after


def gradients(c: Config, v: Variables) -> dict[str, Tensor]:
    """Of all variables, as our parameters' names and layouts have them."""
    made = {}
    for name, (variable, make) in variables_of(c).items():
        gradient = v[variable].grad
        assert gradient is not None, variable
        made[name] = make(gradient) - make(torch.zeros_like(gradient))
    return made
