"""A research agent with LangGraph: a graph of a model and a tool, whose state is the checkpoint."""

from __future__ import annotations

import os
from typing import Any

from langchain_core.messages import convert_to_messages, messages_from_dict, messages_to_dict
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from examples.agents.facts import look_up
from stbass.process import Process, ProcessContext

__all__ = ["ResearchWithLangGraph"]


class ResearchWithLangGraph(Process):
    """Find out about a topic, and say it in a paragraph."""

    def __init__(self, topic: str) -> None:
        self.topic = topic

    async def run(self, ctx: ProcessContext) -> str:
        """Run the graph; a checkpoint after each node."""
        name = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")
        tools = [tool(look_up)]
        model: Any = ChatOpenAI(model=name, max_retries=0).bind_tools(tools)

        async def ask(state: Any) -> dict[str, Any]:
            ctx.log.info("asking %s with %d messages", name, len(state["messages"]))
            answer = await model.ainvoke(state["messages"])
            used = answer.usage_metadata or {}
            ctx.usage(tokens_in=used.get("input_tokens", 0), tokens_out=used.get("output_tokens", 0), model=name)
            return {"messages": [answer]}

        graph: Any = StateGraph(MessagesState)
        graph.add_node("ask", ask)
        graph.add_node("tools", ToolNode(tools))
        graph.add_edge(START, "ask")
        graph.add_conditional_edges("ask", tools_condition)
        graph.add_edge("tools", "ask")
        messages = (
            convert_to_messages([("user", f"What is {self.topic}? Look it up.")])
            if ctx.resumed_from is None
            else messages_from_dict(ctx.resumed_from)
        )
        async for state in graph.compile().astream({"messages": messages}, stream_mode="values"):
            messages = state["messages"]
            # The model is asked again if it was refused; what it and the tools have said is kept.
            if messages[-1].type != "ai":
                ctx.checkpoint(messages_to_dict(messages))
        return str(messages[-1].content)
