"""The formulas as plain loops over float64 numbers: slow, and sharing no code with the library."""

import math

import numpy as np


def number_rows(array):
    """A matrix as a list of lists of Python floats."""
    return [[float(value) for value in row] for row in np.asarray(array)]


def number_list(labels):
    return [int(label) for label in labels]


# ------------------------------------------------------------------------------------------- the unit


def dense(layer, inputs):
    """inputs W + b."""
    kernel, bias = layer["kernel"], layer["bias"]
    outputs = []
    for column in range(len(bias)):
        total = bias[column]
        for row in range(len(inputs)):
            total += inputs[row] * kernel[row][column]
        outputs.append(total)
    return outputs


def relu(values):
    return [max(0.0, value) for value in values]


def unit_length(values):
    norm = math.sqrt(sum(value * value for value in values))
    return [value / norm if norm > 0 else 0.0 for value in values]


def pddm_score_and_scale(params, x, y):
    """S(x, y), and the size of the terms that it sums, to which its rounding errors are relative."""
    difference = [abs(float(a) - float(b)) for a, b in zip(x, y, strict=True)]
    mean = [(float(a) + float(b)) / 2 for a, b in zip(x, y, strict=True)]
    branch_u = unit_length(relu(dense(params["difference"], difference)))
    branch_v = unit_length(relu(dense(params["mean"], mean)))
    joint = relu(dense(params["joint"], branch_u + branch_v))
    (score,) = dense(params["score"], joint)
    scale = abs(float(params["score"]["bias"][0]))
    for column, weight in enumerate(params["score"]["kernel"]):
        terms = abs(float(params["joint"]["bias"][column]))
        for row, value in enumerate(branch_u + branch_v):
            terms += abs(value * float(params["joint"]["kernel"][row][column]))
        scale += abs(float(weight[0])) * terms
    return score, scale


def as_python(params):
    """The parameters as nested lists of Python floats."""
    return {
        layer: {name: np.asarray(value, np.float64).tolist() for name, value in leaves.items()}
        for layer, leaves in params.items()
    }


def pddm_score(params, x, y):
    return pddm_score_and_scale(params, x, y)[0]


# -------------------------------------------------------------------------------------------- distances


def squared_distance(x, y):
    return sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))


def distance(x, y):
    return math.sqrt(squared_distance(x, y))


def positives_of(labels, i):
    return [j for j in range(len(labels)) if j != i and labels[j] == labels[i]]


def negatives_of(labels, i):
    return [k for k in range(len(labels)) if labels[k] != labels[i]]


# ----------------------------------------------------------------------------------------------- mining


def lowest(candidates, score):
    """The first candidate of the lowest score."""
    best = None
    for candidate in candidates:
        if best is None or score(candidate) < score(best):
            best = candidate
    return best


def highest(candidates, score):
    return lowest(candidates, lambda candidate: -score(candidate))


def mine(scores, labels, per):
    """The list of (i, j, k, l) in the order of the slots."""
    scores, labels = number_rows(scores), number_list(labels)
    images = range(len(labels))
    pairs = [(i, j) for i in images for j in images if i < j and labels[i] == labels[j]]
    if per == "batch":
        hardest = lowest(pairs, lambda pair: scores[pair[0]][pair[1]])
        pairs = [] if hardest is None else [hardest]
    elif per == "anchor":
        pairs = []
        for i in images:
            j = lowest(positives_of(labels, i), lambda j, i=i: scores[i][j])
            if j is not None:
                pairs.append((i, j))
    mined = []
    for i, j in pairs:
        k = highest(negatives_of(labels, i), lambda k, i=i: scores[i][k])
        l = highest(negatives_of(labels, j), lambda l, j=j: scores[j][l])  # noqa: E741
        if k is not None and l is not None:
            mined.append((i, j, k, l))
    return mined


# ----------------------------------------------------------------------------------------------- losses


def average(values):
    return sum(values) / len(values) if values else 0.0


def double_header_hinge(params, embeddings, quadruplets, alpha=0.5, beta=1.0, weight=0.5):
    """The mean over the list of (i, j, k, l)."""
    terms = []
    for i, j, k, l in quadruplets:  # noqa: E741
        x, y, negative_x, negative_y = (embeddings[index] for index in (i, j, k, l))
        s_ij = pddm_score(params, x, y)
        s_ik = pddm_score(params, x, negative_x)
        s_jl = pddm_score(params, y, negative_y)
        d_ij = squared_distance(x, y)
        d_ik = squared_distance(x, negative_x)
        d_jl = squared_distance(y, negative_y)
        e_m = max(0.0, alpha + s_ik - s_ij) + max(0.0, alpha + s_jl - s_ij)
        e_e = max(0.0, beta + d_ij - d_ik) + max(0.0, beta + d_ij - d_jl)
        terms.append(e_m + weight * e_e)
    return average(terms)


def contrastive(embeddings, labels, margin=1.0):
    positive, negative = [], []
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            if labels[i] == labels[j]:
                positive.append(squared_distance(embeddings[i], embeddings[j]))
            else:
                negative.append(max(0.0, margin - distance(embeddings[i], embeddings[j])) ** 2)
    return average(positive) + average(negative)


def triplet(embeddings, labels, margin=0.2, mining="semihard"):
    hinges = []
    for a in range(len(labels)):
        positives, negatives = positives_of(labels, a), negatives_of(labels, a)
        if not positives or not negatives:
            continue
        to = [squared_distance(embeddings[a], other) for other in embeddings]
        if mining == "all":
            for p in positives:
                for n in negatives:
                    if margin + to[p] - to[n] > 0:
                        hinges.append(margin + to[p] - to[n])
        elif mining == "semihard":
            for p in positives:
                farther = [to[n] for n in negatives if to[n] > to[p]]
                chosen = min(farther) if farther else max(to[n] for n in negatives)
                hinges.append(max(0.0, margin + to[p] - chosen))
        elif mining == "hard":
            farthest, nearest_negative = max(to[p] for p in positives), min(to[n] for n in negatives)
            hinges.append(max(0.0, margin + farthest - nearest_negative))
    return average(hinges)


def lifted_structure(embeddings, labels, margin=1.0):
    total, pairs = 0.0, 0
    for i in range(len(labels)):
        for j in positives_of(labels, i):
            negatives_i, negatives_j = negatives_of(labels, i), negatives_of(labels, j)
            if j < i or not negatives_i or not negatives_j:
                continue
            inside = 0.0
            for k in negatives_i:
                inside += math.exp(margin - distance(embeddings[i], embeddings[k]))
            for l in negatives_j:  # noqa: E741
                inside += math.exp(margin - distance(embeddings[j], embeddings[l]))
            total += max(0.0, math.log(inside) + distance(embeddings[i], embeddings[j])) ** 2
            pairs += 1
    return total / (2 * pairs) if pairs else 0.0


def multi_similarity(embeddings, labels, alpha=2.0, beta=50.0, base=0.5, margin=0.1):
    terms = []
    for i in range(len(labels)):
        s = [sum(float(a) * float(b) for a, b in zip(embeddings[i], e, strict=True)) for e in embeddings]
        positives, negatives = positives_of(labels, i), negatives_of(labels, i)
        if not positives or not negatives:  # there is nothing to mine against
            terms.append(0.0)
            continue
        highest_negative, lowest_positive = max(s[k] for k in negatives), min(s[j] for j in positives)
        pull = push = 0.0
        for j in positives:
            if s[j] - margin < highest_negative:
                pull += math.exp(-alpha * (s[j] - base))
        for k in negatives:
            if s[k] + margin > lowest_positive:
                push += math.exp(beta * (s[k] - base))
        terms.append(math.log(1 + pull) / alpha + math.log(1 + push) / beta)
    return average(terms)


# ---------------------------------------------------------------------------------------------- metrics


def negative_squared_distance(x, y):
    return -squared_distance(x, y)


def ranked(query, gallery, score=negative_squared_distance, left_out=None):
    """(score, index) of all of the gallery, best first; of equal scores the lowest index first."""
    scored = [(score(query, image), g) for g, image in enumerate(gallery) if g != left_out]
    return sorted(scored, key=lambda entry: (-entry[0], entry[1]))


def recall_at_k(embeddings, labels, ks, gallery=None, gallery_labels=None, score=negative_squared_distance):
    """Over the queries that the gallery holds an image of their class for."""
    alone = gallery is None
    if alone:
        gallery, gallery_labels = embeddings, labels
    shares = {}
    rankings = [ranked(x, gallery, score, q if alone else None) for q, x in enumerate(embeddings)]
    answerable = [
        q for q, ranking in enumerate(rankings) if any(gallery_labels[g] == labels[q] for _, g in ranking)
    ]
    for k in ks:
        hits = 0
        for q in answerable:
            if any(gallery_labels[g] == labels[q] for _, g in rankings[q][:k]):
                hits += 1
        shares[k] = hits / len(answerable)
    return shares


def relevance_at_r(embeddings, labels, score):
    """Of each query that is not alone in its class: which of its R nearest are of its class."""
    for q, query in enumerate(embeddings):
        r = len(positives_of(labels, q))
        if r:
            ranking = ranked(query, embeddings, score, q)
            yield [labels[g] == labels[q] for _, g in ranking[:r]]


def map_at_r(embeddings, labels, score=negative_squared_distance):
    values = []
    for relevant in relevance_at_r(embeddings, labels, score):
        total = 0.0
        for i in range(1, len(relevant) + 1):
            if relevant[i - 1]:
                total += sum(relevant[:i]) / i
        values.append(total / len(relevant))
    return average(values)


def r_precision(embeddings, labels, score=negative_squared_distance):
    return average(
        [sum(relevant) / len(relevant) for relevant in relevance_at_r(embeddings, labels, score)]
    )


def nmi(classes, clusters):
    """2 I / (H + H), from counts."""
    n = len(classes)

    def entropy(names):
        return -sum(names.count(name) / n * math.log(names.count(name) / n) for name in set(names))

    mutual = 0.0
    for a in set(classes):
        for b in set(clusters):
            both = sum(1 for c, d in zip(classes, clusters, strict=True) if (c, d) == (a, b)) / n
            if both > 0:
                mutual += both * math.log(both / (classes.count(a) / n * (clusters.count(b) / n)))
    return 2 * mutual / (entropy(list(classes)) + entropy(list(clusters)))


# ------------------------------------------------------------------------------------------ zero-shot


def cosine(x, y):
    length = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / length if length else 0.0


def hit_at_k(scores, labels, ks):
    """The share of rows of scores whose label is among the k columns of highest score."""
    hits = dict.fromkeys(ks, 0)
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(len(row)), key=lambda column: (-row[column], column))
        for k in ks:
            hits[k] += label in order[:k]
    return {k: count / len(labels) for k, count in hits.items()}


def conse(embeddings, labels, descriptions, top, temperature, query):
    """The mixture of the `top` nearest class means' descriptions, by softmax, for one query."""
    members = {}
    for embedding, label in zip(number_rows(embeddings), number_list(labels), strict=True):
        members.setdefault(label, []).append(embedding)
    weights = {}
    for label, rows in members.items():
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        weights[label] = math.exp(-squared_distance(mean, query) / temperature)
    total = sum(weights.values())
    chosen = sorted(weights, key=lambda label: (-weights[label], label))[:top]
    probabilities = {label: weights[label] / total for label in chosen}
    mixed = [0.0] * len(descriptions[0])
    for label, probability in probabilities.items():
        for column, value in enumerate(unit_length([float(x) for x in descriptions[label]])):
            mixed[column] += probability * value / sum(probabilities.values())
    return mixed


def ranking_loss(kernel, embeddings, labels, descriptions, margin):
    """For each image the hinges of all wrong classes, summed; then the mean."""
    losses = []
    units = [unit_length([float(x) for x in row]) for row in descriptions]
    for x, label in zip(number_rows(embeddings), number_list(labels), strict=True):
        vector = dense({"kernel": number_rows(kernel), "bias": [0.0] * len(kernel[0])}, x)
        scores = [sum(a * b for a, b in zip(vector, s, strict=True)) for s in units]
        wrong = [score for j, score in enumerate(scores) if j != label]
        losses.append(sum(max(0.0, margin - scores[label] + score) for score in wrong))
    return average(losses)
