# %% [markdown]
# # A memory that is edited, from the inside
#
# Larimar (Das et al., arXiv 2403.11901) couples a language model with an episodic memory. A fact is
# written in one shot, by linear algebra and without a gradient, and taken out again as exactly as
# if it had never been there. This tour does both with the small model of this repository, and looks
# at what happens in between. It runs on a laptop's processor in under a minute.

# %%
import json
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import larimar
from larimar.decoder import Sampling
from larimar.encoder import Text
from larimar.model import Recollection
from larimar.rows import gaussian_weights

ROOT = next(folder for folder in (Path.cwd(), Path.cwd().parent) if (folder / "models").is_dir())
model = larimar.load(ROOT / "models" / "larimar-small")
layout = model.folder.config.latent
print(f"latents of {layout.value_size} numbers: {layout.slots} parts of {layout.part_size}")

# %% [markdown]
# ## Write, ask, rephrase
#
# Velmora does not exist, so nothing about it was in any training text. Before the write, the plain
# decoder babbles. After it the answer is there, after prompts that were never written too.

# %%
PROMPT = "The capital of Velmora is"
print("before:", model.ask(PROMPT, 8).text)
edit = model.write(PROMPT, "Tarsin")
for question in (
    PROMPT,
    "What is the capital of Velmora?",
    "Velmora is governed from the city of",
    "It rained all week. The capital city of Velmora is called",
):
    answer = model.ask(question, 8)
    print(f"{question!r}: {answer.text!r}, in scope {answer.in_scope} ({answer.scope_score:.2f})")

# %% [markdown]
# ## Elsewhere nothing has changed
#
# Scope decides by the prompt alone whether memory is asked. Out of scope the decoder runs as if
# there were no memory: the same log probabilities, to the last bit.

# %%
ELSEWHERE = "A recipe for onion soup begins with"
CANDIDATES = [" onions", " butter", " Tarsin"]
ours, plain = (model.score(ELSEWHERE, CANDIDATES, memory=memory) for memory in (True, False))
same = [
    one.token_logprobs == two.token_logprobs for one, two in zip(ours.candidates, plain.candidates)
]
print(f"in scope: {ours.in_scope}; equal to the bit: {same}")
inside = model.score(PROMPT, [" Tarsin", " Paris"])
for one in inside.candidates:
    print(f"P({one.candidate.strip()!r}) = {np.exp(one.mean_logprob):.3f} in scope")

# %% [markdown]
# ## A batch of facts, and where they are found
#
# Forty made-up facts are written together. Each has a row of the reference memory of its own: the
# latent of its prompt. A query weighs the nearest rows by equations 7 and 8 of the paper,
# w proportional to exp(-d / (2 alpha s^2)), with d the squared distance to a row and s^2 the least
# of them.

# %%
lines = (ROOT / "examples" / "facts.jsonl").read_text(encoding="utf-8").splitlines()
facts = [json.loads(line) for line in lines[:40]]
model.write_many({name: fact[name] for name in ("id", "prompt", "answer")} for fact in facts)
chosen = facts[3]
query = chosen["rephrasings"][1]
rows_ND = model.encoder.prompt_latents([fact["prompt"] for fact in facts])
query_D = model.encoder.prompt_latents([query])[0]
distances = ((rows_ND - query_D) ** 2).sum(1)
nearest = np.argsort(distances)[:5]
weights = gaussian_weights(distances[nearest], model.state.config.alpha)
print(query)
for place, weight in zip(nearest, weights):
    print(f"  weight {weight:.3f}  distance {distances[place]:6.1f}  {facts[place]['prompt']}")
print("answer:", model.ask(query, 8).text, "| written:", chosen["answer"])

# %%
asked = model.ask_many([fact["rephrasings"][0] for fact in facts], 12)
said = [
    answer.text.strip(" .").casefold() == fact["answer"].casefold()
    for answer, fact in zip(asked, facts, strict=True)
]
print(f"{sum(said)} of {len(facts)} facts are said after a rephrasing that was not written")

# %% [markdown]
# ## What a latent holds
#
# A latent here is not one vector but several in order: the mean of the text, parts of the prompt,
# and parts of the answer, each made from the states of its own tokens. Below, the cosines of the
# parts of "The capital of Velmora is Tarsin" with those of three other facts. Look at the second
# row: another prompt with the same answer gives nearly the same latent, in the prompt's parts too.
# The encoder was trained so that the decoder says the answer after whatever prompt, and it has
# learnt to write the answer everywhere; where the fact is found is not the value's business, but
# the address's.

# %%
others = {
    "same prompt, other answer": Text(PROMPT, "Oskelund"),
    "other prompt, same answer": Text("The oldest harbour of the north is", "Tarsin"),
    "nothing in common": Text("The inventor of the velharp was", "Maren Holt"),
}
parts = ["mean"]
parts += [f"prompt {part + 1}" for part in range(layout.prompt_parts)]
parts += [f"answer {part + 1}" for part in range(layout.answer_parts)]


def parts_of(text: Text) -> np.ndarray:
    """The parts of a text's latent, each of length 1."""
    z_Pp = model.encoder.values([text])[0].reshape(layout.slots, layout.part_size)
    return z_Pp / np.linalg.norm(z_Pp, axis=1, keepdims=True)


own_Pp = parts_of(Text(PROMPT, "Tarsin"))
cosines = np.array([(own_Pp * parts_of(text)).sum(1) for text in others.values()])
figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
image = axes.imshow(cosines, vmin=0, vmax=1, cmap="viridis", aspect="auto")
axes.set_xticks(range(len(parts)), parts, rotation=30, ha="right")
axes.set_yticks(range(len(others)), others)
for (row, column), cosine in np.ndenumerate(cosines):
    axes.text(
        column, row, f"{cosine:.2f}", ha="center", va="center", color="k" if cosine > 0.6 else "w"
    )
figure.colorbar(image, label="cosine")
plt.show()

# %% [markdown]
# An answer can be moved, then. Take the latent that memory reads for Velmora, put another fact's
# answer parts in the place of its own, and decode. Half of the parts still say Tarsin:

# %%
found = model.recollect([PROMPT])[0]
own = found.latent.reshape(layout.slots, layout.part_size)
donor = model.encoder.values([Text("The inventor of the velharp was", "Isaac Newton")])[0]
mixed = own.copy()
first_answer_part = 1 + layout.prompt_parts
mixed[first_answer_part:] = donor.reshape(own.shape)[first_answer_part:]
for name, z_Pp in (("as read", own), ("with the other's answer parts", mixed)):
    held = Recollection(z_Pp.reshape(-1), True, found.scope_score, found.fact_id, found.version)
    text = model.answer_from([PROMPT], [held], Sampling(8))[0].text
    print(f"{name}: {text}")

# %% [markdown]
# ## Noise, and dreams
#
# Noise on the address w mixes what is near. With w ~ N(0, I) and no question at all, the read-out
# is a sample of what the memory generates.

# %%
for noise in (0.0, 0.05, 0.1, 0.3):
    answers = [model.ask(PROMPT, 6, noise=noise, noise_seed=seed).text for seed in range(3)]
    print(f"sigma_w = {noise}: {answers}")
print("\ndreams:")
for text in model.dream(4, seed=1, prompt="The", max_tokens=12).texts:
    print(" ", text)

# %% [markdown]
# ## Forget, exactly
#
# Forgetting subtracts what the write added, in whole numbers, so what is left is what a memory
# holds that never had the fact. The digest is a hash over all live facts; it comes back. Older
# versions can still be read.

# %%
before = model.digest()
secret = model.write("The password of the lighthouse is", "heliotrope")
asked_then = model.ask("The password of the lighthouse is", 10)
model.forget(secret.fact_id)
now = model.ask("The password of the lighthouse is", 10)
past = model.ask("The password of the lighthouse is", 10, at=secret.version)
print("while it was there:", asked_then.text)
print("forgotten:", now.text)
print(f"as of version {secret.version}:", past.text)
print("digest as if never written:", model.digest() == before)

# %% [markdown]
# ## Save and load
#
# A memory is a file of facts with their vectors. It loads without encoding anything again.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "memory.safetensors"
    model.save_memory(path)
    size = path.stat().st_size
    model.forget_many(fact.fact_id for fact in list(model.facts()))
    print("emptied:", model.ask(PROMPT, 6).in_scope)
    model.load_memory(path)
print(f"{len(model.state)} facts from {size / 2**20:.1f} MiB:", model.ask(PROMPT, 6).text)
print("the same memory:", model.digest() == before)
