"""English speech recognition with Moonshine tiny: conversion at set-up, tokenizer, greedy decoding with drafts."""
